"""Objectives of preference pairs: DPO and ORPO.

Documents 2k and 2k + 1 of a batch are the chosen and the rejected completion of one prompt. Only their answer tokens
are projected on the vocabulary.
Legend: T tokens, H hidden size, V vocabulary, D documents, P pairs.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F

from brew_train.inputs.batches import Batch
from brew_train.objectives.base import PAIRS, Objective, Result, StepInputs
from brew_train.objectives.config import DpoConfig, OrpoConfig
from brew_train.objectives.reference import answer_log_probabilities

__all__ = ["Dpo", "Orpo", "Preference"]


class Preference(Objective):
    """Base class of losses of pairs.

    `margin` is the difference that the loss increases, `accuracy` the share of pairs with a positive margin.
    `answer_loss` and `rejected_loss` are the mean cross-entropy per token of a completion, averaged over pairs: they
    show when DPO lowers the probability of both completions.
    """

    bins = "pairs"
    measures: ClassVar[Mapping[str, int]] = dict.fromkeys(("answer_loss", "rejected_loss", "accuracy", "margin"), PAIRS)

    @abstractmethod
    def compare(
        self, logp_D: torch.Tensor, tokens_D: torch.Tensor, step: StepInputs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes the loss and the margin of each pair.

        Args:
            logp_D: float32, log-probability of the answer of each document.
            tokens_D: float32, number of answer tokens of each document.
            step: inputs of the step, including the reference.

        Returns:
            losses_P: float32, differentiable.
            margins_P: float32.
        """

    def compute(self, hidden_TH: torch.Tensor, head_VH: torch.Tensor, batch: Batch, step: StepInputs) -> Result:
        pairs = step.counts_3[PAIRS].clamp(min=1)
        logp_D, tokens_D, losses_T = answer_log_probabilities(hidden_TH, head_VH, batch)
        losses_P, margins_P = self.compare(logp_D, tokens_D, step)
        loss = losses_P.sum() / pairs.float()
        chosen_loss, rejected_loss = -_by_pair(logp_D / tokens_D).detach().double().sum(dim=1)
        accurate, margin = (margins_P > 0).double().sum(), margins_P.detach().double().sum()
        exact = losses_P.detach().double().sum() / pairs
        return loss, losses_T, torch.stack([exact, chosen_loss, rejected_loss, accurate, margin])


class Dpo(Preference):
    """-log sigmoid(β (Δ_chosen - Δ_rejected)), Δ = log π(answer) - log π_reference(answer), mean over pairs.

    Direct Preference Optimization, arXiv:2305.18290, equation 7.
    """

    name = "dpo"
    Config = DpoConfig
    needs_reference = True

    def compare(
        self, logp_D: torch.Tensor, tokens_D: torch.Tensor, step: StepInputs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert step.reference_D is not None  # Objective.bind requires it
        chosen_P, rejected_P = self.config.beta * _by_pair(logp_D - step.reference_D)
        return -F.logsigmoid(chosen_P - rejected_P), chosen_P - rejected_P


class Orpo(Preference):
    """NLL of the chosen answer + λ · (-log sigmoid(log odds(chosen) - log odds(rejected))), mean over pairs.

    ORPO, arXiv:2403.07691, equations 3 to 7, with log P(y|x) the mean over y's tokens and odds = P / (1 - P). As in the
    paper, prompt tokens do not count in the NLL; its published code and TRL count them.
    """

    name = "orpo"
    Config = OrpoConfig

    def compare(
        self, logp_D: torch.Tensor, tokens_D: torch.Tensor, step: StepInputs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mean_D = logp_D / tokens_D
        nll_P = -_by_pair(mean_D)[0]
        chosen_P, rejected_P = _by_pair(_log_odds(mean_D))
        return nll_P - self.config.weight * F.logsigmoid(chosen_P - rejected_P), chosen_P - rejected_P


def _by_pair(values_D: torch.Tensor) -> torch.Tensor:
    """Reshapes values of documents to [2, P]: the chosen ones, then the rejected ones."""
    return values_D.view(-1, 2).T


def _log_odds(logp: torch.Tensor) -> torch.Tensor:
    """Computes log(p / (1 - p)) from log p; finite for every p in float32.

    log(1 - p) is log1p(-p) for small p and log(-expm1(log p)) near 1: each is inaccurate where the other is used.
    """
    logp = logp.clamp(max=-torch.finfo(torch.float32).eps)  # p = 1 is a rounding error
    near_one = logp > -math.log(2)
    # The unused branch gets a finite input: otherwise its infinite gradient times 0 would be NaN.
    log_rest = torch.where(
        near_one,
        torch.log(-torch.expm1(torch.where(near_one, logp, -1.0))),
        torch.log1p(-torch.exp(torch.where(near_one, -1.0, logp))),
    )
    return logp - log_rest

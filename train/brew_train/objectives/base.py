"""What a stage minimises, from the last hidden states and the head: next-token loss, DPO or ORPO.

Owns: the objectives, what each measures, and the reference log-probabilities of DPO. Does not own: the projection and
the loss of a token (brew_train.objectives.fused_losses), or the adding up over micro-steps and workers (brew_train.step).

Every objective divides by counts of the *global* step, so the losses of all workers and micro-steps add up to the
step's, however many there are. Documents 2k and 2k + 1 of a batch of pairs are the chosen and the rejected completion
of one prompt, and only their answer tokens are projected: prompts cost no logits.
Legend: T tokens, A of them answers, H hidden size, V vocabulary, D documents, P pairs, K what is measured.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F

from brew_train.config import StageConfig
from brew_train.inputs.batches import Batch
from brew_train.objectives.fused_losses import (
    ANSWER,
    NO_TARGET,
    PROMPT,
    fused_cross_entropy,
    token_log_probabilities,
    token_weights,
)

__all__ = ["Objective", "make_objective", "reference_log_probabilities"]

Result = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_PROMPTS, _ANSWERS, _PAIRS = range(3)  # places in counts_3


class Objective(ABC):
    """A loss of one batch, called inside the model's forward, where the head's weight exists.

    Args:
        micro_steps: parts that a worker's share of the step is trained in; for terms that the model adds to each.
    """

    measures: ClassVar[Mapping[str, int]]  # name -> place in counts_3 of what its sum is divided by

    def __init__(self, *, micro_steps: int = 1) -> None:
        self.micro_steps = micro_steps

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what is measured: of the sums after the first."""
        return tuple(self.measures)

    @abstractmethod
    def __call__(self, hidden_TH: torch.Tensor, head_VH: torch.Tensor, batch: Batch) -> Result:
        """This batch's part of the step.

        Returns:
            loss: float32 scalar, differentiable; all parts add up to the step's loss.
            losses_T: float32, each position's cross-entropy, 0 where none is computed; not differentiable.
            sums_K: float64 [1 + K], the loss and the sum of each of `names`; not differentiable.
        """

    def means(self, sums_K: torch.Tensor, counts_3: torch.Tensor) -> dict[str, float | None]:
        """What was measured, by name.

        Args:
            sums_K: `sums_K[1:]`, added over micro-steps and workers.
            counts_3: prompt targets, answer targets and pairs of the global step.

        Returns:
            Means; None where the step has nothing to measure, or the sum is no number.
        """
        counts = counts_3.tolist()
        return {
            name: total / counts[place] if counts[place] and math.isfinite(total) else None
            for (name, place), total in zip(self.measures.items(), sums_K.tolist(), strict=True)
        }


def make_objective(
    stage: StageConfig, counts_3: torch.Tensor, *, micro_steps: int = 1, reference_D: torch.Tensor | None = None
) -> Objective:
    """The objective that `stage` names, for one batch of a step.

    Args:
        counts_3: float64, prompt targets, answer targets and pairs of the global step, on the batch's device.
        micro_steps: parts that a worker's share of the step is trained in.
        reference_D: float32, what `reference_log_probabilities` gave for each document of the batch; DPO needs it.
    """
    if stage.objective == "next_token":
        return _NextToken(counts_3, stage.prompt_weight, micro_steps=micro_steps)
    if stage.objective == "orpo":
        return _Orpo(counts_3, stage.orpo_weight, micro_steps=micro_steps)
    assert stage.objective == "dpo", f"StageConfig let the objective {stage.objective!r} through"
    assert reference_D is not None, "DPO compares with a reference: compute it at the stage's start"
    return _Dpo(counts_3, stage.dpo_beta, reference_D, micro_steps=micro_steps)


class _NextToken(Objective):
    """Cross-entropy of every token, prompt and answer tokens weighted as `token_weights` says."""

    measures: ClassVar[Mapping[str, int]] = {"prompt_loss": _PROMPTS, "answer_loss": _ANSWERS}

    def __init__(self, counts_3: torch.Tensor, prompt_weight: float | None, *, micro_steps: int) -> None:
        super().__init__(micro_steps=micro_steps)
        self._counts_2, self._prompt_weight = counts_3[:_PAIRS], prompt_weight

    def __call__(self, hidden_TH: torch.Tensor, head_VH: torch.Tensor, batch: Batch) -> Result:
        weights_T = token_weights(batch.roles_T, batch.targets_T, self._counts_2, self._prompt_weight)
        loss, losses_T = fused_cross_entropy(hidden_TH, head_VH, batch.targets_T, weights_T)
        exact_T = losses_T.double()
        by_role = [torch.where(batch.roles_T == role, exact_T, 0.0).sum() for role in (PROMPT, ANSWER)]
        return loss, losses_T, torch.stack([(exact_T * weights_T).sum(), *by_role])


class _Preference(Objective):
    """A loss of pairs. `margin` is what the loss drives apart, `accuracy` how often it is on the right side.

    `answer_loss` and `rejected_loss` are the mean cross-entropy per token of a completion, averaged over pairs: DPO can
    win by making both completions unlikely, and these two tell.
    """

    measures: ClassVar[Mapping[str, int]] = dict.fromkeys(
        ("answer_loss", "rejected_loss", "accuracy", "margin"), _PAIRS
    )

    def __init__(self, counts_3: torch.Tensor, *, micro_steps: int) -> None:
        super().__init__(micro_steps=micro_steps)
        self._pairs = counts_3[_PAIRS].clamp(min=1)

    @abstractmethod
    def _compare(self, logp_D: torch.Tensor, tokens_D: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each pair's loss and margin, [P], from its documents' log-probabilities and lengths."""

    def __call__(self, hidden_TH: torch.Tensor, head_VH: torch.Tensor, batch: Batch) -> Result:
        logp_D, tokens_D, losses_T = _answers(hidden_TH, head_VH, batch)
        losses_P, margins_P = self._compare(logp_D, tokens_D)
        loss = losses_P.sum() / self._pairs.float()
        chosen_loss, rejected_loss = -_by_pair(logp_D / tokens_D).detach().double().sum(dim=1)
        accurate, margin = (margins_P > 0).double().sum(), margins_P.detach().double().sum()
        exact = losses_P.detach().double().sum() / self._pairs
        return loss, losses_T, torch.stack([exact, chosen_loss, rejected_loss, accurate, margin])


class _Dpo(_Preference):
    """-log sigmoid(β (Δ_chosen - Δ_rejected)), Δ = log π(answer) - log π_reference(answer), mean over pairs.

    Direct Preference Optimization, arXiv:2305.18290, equation 7.
    """

    def __init__(self, counts_3: torch.Tensor, beta: float, reference_D: torch.Tensor, *, micro_steps: int) -> None:
        super().__init__(counts_3, micro_steps=micro_steps)
        self._beta, self._reference_D = beta, reference_D

    def _compare(self, logp_D: torch.Tensor, tokens_D: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chosen_P, rejected_P = self._beta * _by_pair(logp_D - self._reference_D)
        return -F.logsigmoid(chosen_P - rejected_P), chosen_P - rejected_P


class _Orpo(_Preference):
    """NLL of the chosen answer + λ · (-log sigmoid(log odds(chosen) - log odds(rejected))), mean over pairs.

    ORPO, arXiv:2403.07691, equations 3 to 7, with log P(y|x) the mean over y's tokens and odds = P / (1 - P). As in the
    paper, prompt tokens do not count in the NLL; its published code and TRL's count them.
    """

    def __init__(self, counts_3: torch.Tensor, weight: float, *, micro_steps: int) -> None:
        super().__init__(counts_3, micro_steps=micro_steps)
        self._weight = weight

    def _compare(self, logp_D: torch.Tensor, tokens_D: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean_D = logp_D / tokens_D
        nll_P = -_by_pair(mean_D)[0]
        chosen_P, rejected_P = _by_pair(_log_odds(mean_D))
        return nll_P - self._weight * F.logsigmoid(chosen_P - rejected_P), chosen_P - rejected_P


class _Reference(Objective):
    measures: ClassVar[Mapping[str, int]] = {}

    def __call__(self, hidden_TH: torch.Tensor, head_VH: torch.Tensor, batch: Batch) -> Result:
        logp_D, _, losses_T = _answers(hidden_TH, head_VH, batch)
        zero = torch.zeros((), device=hidden_TH.device)
        return zero, losses_T, torch.cat([zero.unsqueeze(0), logp_D.detach()]).double()


reference_log_probabilities: Objective = _Reference()
"""An objective without a loss, for a pass under no_grad: after the first, its sums are log-probabilities of documents.

Its third result is float64 [1 + D]: a zero, and each document's log-probability of its answer tokens.
"""


def _answers(
    hidden_TH: torch.Tensor, head_VH: torch.Tensor, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each document's answer: log-probability, float32 [D], differentiable; tokens, at least 1, [D]; and losses_T."""
    answers_T = (batch.targets_T != NO_TARGET) & (batch.roles_T == ANSWER)
    places_A = answers_T.nonzero().squeeze(1)
    logp_A = token_log_probabilities(hidden_TH[places_A], head_VH, batch.targets_T[places_A])
    logp_T = torch.zeros(len(answers_T), device=logp_A.device).index_copy(0, places_A, logp_A)
    logp_D, tokens_D = (
        torch.segment_reduce(values_T, "sum", offsets=batch.cu_seqlens, unsafe=True)  # unchecked: no wait for the GPU
        for values_T in (logp_T, answers_T.float())
    )
    return logp_D, tokens_D.clamp(min=1), -logp_T.detach()


def _by_pair(values_D: torch.Tensor) -> torch.Tensor:
    """Documents' values as [2, P]: the chosen ones, and the rejected ones."""
    return values_D.view(-1, 2).T


def _log_odds(logp: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) from log p, finite for every p in float32.

    log(1 - p) is log1p(-p) for small p and log(-expm1(log p)) near 1: each loses its digits where the other is used.
    """
    logp = logp.clamp(max=-torch.finfo(torch.float32).eps)  # p = 1 is a rounded one
    near_one = logp > -math.log(2)
    # The branch not taken is fed a harmless value, lest its infinite gradient times 0 be no number.
    log_rest = torch.where(
        near_one,
        torch.log(-torch.expm1(torch.where(near_one, logp, -1.0))),
        torch.log1p(-torch.exp(torch.where(near_one, -1.0, logp))),
    )
    return logp - log_rest

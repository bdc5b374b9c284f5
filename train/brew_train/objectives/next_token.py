"""Next-token cross-entropy, for continued pre-training and supervised fine-tuning."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch

from brew_train.inputs.batches import Batch
from brew_train.objectives.base import ANSWERS, PAIRS, PROMPTS, Objective, Result, StepInputs
from brew_train.objectives.config import NextTokenConfig
from brew_train.objectives.fused_losses import ANSWER, PROMPT, fused_cross_entropy, token_weights

__all__ = ["NextToken"]


class NextToken(Objective):
    """Cross-entropy of every token; `token_weights` weights them (360Brew, arXiv:2501.16450, equation 3).

    `prompt_loss` and `answer_loss` are the means by role. With w_p = 0 only answers are projected on the vocabulary, so
    the loss of prompt tokens is not known, and `prompt_loss` is None.
    """

    name = "next_token"
    Config = NextTokenConfig
    measures: ClassVar[Mapping[str, int]] = {"prompt_loss": PROMPTS, "answer_loss": ANSWERS}

    def compute(self, hidden_TH: torch.Tensor, head_VH: torch.Tensor, batch: Batch, step: StepInputs) -> Result:
        weights_T = token_weights(batch.roles_T, batch.targets_T, step.counts_3[:PAIRS], self.config.prompt_weight)
        only_answers = self.config.prompt_weight == 0
        loss, losses_T = fused_cross_entropy(hidden_TH, head_VH, batch.targets_T, weights_T, only_weighted=only_answers)
        exact_T = losses_T.double()
        by_role = [torch.where(batch.roles_T == role, exact_T, 0.0).sum() for role in (PROMPT, ANSWER)]
        if only_answers:
            by_role[PROMPT] = torch.full_like(by_role[PROMPT], math.nan)  # not computed; `means` reports None
        return loss, losses_T, torch.stack([(exact_T * weights_T).sum(), *by_role])

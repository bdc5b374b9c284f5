"""Log-probabilities of answers, and the forward pass that computes them for a reference model.

Only answer tokens are projected on the vocabulary.
Legend: T tokens, A answer tokens, H hidden size, V vocabulary, D documents.
"""

import torch

from brew_train.inputs.batches import Batch
from brew_train.objectives.base import BatchLoss, Result
from brew_train.objectives.fused_losses import ANSWER, NO_TARGET, token_log_probabilities

__all__ = ["answer_log_probabilities", "reference_log_probabilities"]


def answer_log_probabilities(
    hidden_TH: torch.Tensor, head_VH: torch.Tensor, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes the log-probability of the answer of each document.

    Args:
        hidden_TH: last hidden states, float32 or bfloat16.
        head_VH: weight of the head, same dtype.
        batch: the packed row.

    Returns:
        logp_D: float32, sum over the answer tokens; differentiable.
        tokens_D: float32, number of answer tokens, at least 1.
        losses_T: float32, cross-entropy of each answer token, 0 elsewhere; not differentiable.
    """
    answers_T = (batch.targets_T != NO_TARGET) & (batch.roles_T == ANSWER)
    places_A = answers_T.nonzero().squeeze(1)
    logp_A = token_log_probabilities(hidden_TH[places_A], head_VH, batch.targets_T[places_A])
    logp_T = torch.zeros(len(answers_T), device=logp_A.device).index_copy(0, places_A, logp_A)
    logp_D, tokens_D = (
        torch.segment_reduce(values_T, "sum", offsets=batch.cu_seqlens, unsafe=True)  # a check would wait for the GPU
        for values_T in (logp_T, answers_T.float())
    )
    return logp_D, tokens_D.clamp(min=1), -logp_T.detach()


class _ReferencePass:
    micro_steps = 1

    def __call__(self, hidden_TH: torch.Tensor, head_VH: torch.Tensor, batch: Batch) -> Result:
        logp_D, _, losses_T = answer_log_probabilities(hidden_TH, head_VH, batch)
        zero = torch.zeros((), device=hidden_TH.device)
        return zero, losses_T, torch.cat([zero.unsqueeze(0), logp_D.detach()]).double()


reference_log_probabilities: BatchLoss = _ReferencePass()
"""For a pass under no_grad. The third result is float64 [1 + D]: a zero, then the log-probability of each answer."""

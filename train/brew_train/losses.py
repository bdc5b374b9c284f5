"""Per-token weighted cross-entropy that never holds the logits of a whole row.

Owns: the weights of a step's tokens, and the fused projection and loss. Does not own: which tokens are targets
(brew_train.batches) or how gradients are shared (FSDP2).

360Brew's fine-tuning loss of a multi-turn chat (360Brew, "L = w_p·L_prompt + (1 - w_p)·L_mtc"): with N_p prompt targets
and N_a answer targets in the *global* step, a prompt target weighs w_p / N_p and an answer target (1 - w_p) / N_a. The
counts are summed over all workers first, so every number of workers minimises the same loss.
Legend: T tokens of one worker's row, H hidden size, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["ANSWER", "CHUNK", "NO_TARGET", "PROMPT", "fused_cross_entropy", "token_weights"]

PROMPT, ANSWER = 0, 1  # roles of target tokens, as in the bins
NO_TARGET = -100  # target id of a position that predicts nothing: the last token of each document
CHUNK = {"cpu": 128, "cuda": 2048}  # tokens whose logits exist at once: in the CPU's cache, or enough to fill a GPU


def token_weights(
    roles_T: torch.Tensor, targets_T: torch.Tensor, counts_2: torch.Tensor, prompt_weight: float | None
) -> torch.Tensor:
    """The weight of each position, such that the sum of weight · cross-entropy over all workers is the step's loss.

    Args:
        roles_T: uint8, role of the token that each position predicts (0 prompt, 1 answer).
        targets_T: int64, ids; `NO_TARGET` where a position predicts nothing.
        counts_2: prompt and answer targets in the global step.
        prompt_weight: w_p, or None for the plain mean over all targets.

    Returns:
        float32, shape [T]; 0 where there is no target. A role without any target in the step adds nothing.
    """
    counts = counts_2.to(torch.float32)
    if prompt_weight is None:
        by_role = (1.0 / counts.sum().clamp(min=1)).expand(2)
    else:
        share = torch.tensor([prompt_weight, 1.0 - prompt_weight], device=counts.device)
        by_role = share / counts.clamp(min=1)
    return torch.where(targets_T == NO_TARGET, 0.0, by_role[roles_T.long()])


def fused_cross_entropy(
    hidden_TH: torch.Tensor, head_VH: torch.Tensor, targets_T: torch.Tensor, weights_T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted cross-entropy of a linear head, in chunks of `CHUNK[device]` tokens.

    The gradient is made in the forward pass, chunk by chunk, while the logits exist (the idea of Liger's fused linear
    cross-entropy, arXiv:2410.10989 §3.2): nothing is computed twice, and memory is chunk x V instead of T x V.

    Args:
        hidden_TH: last hidden states.
        head_VH: weight of the head, in the same dtype; logits and losses are float32 whatever it is.
        targets_T: int64, ids; `NO_TARGET` where a position predicts nothing.
        weights_T: float32; 0 where there is no target.

    Returns:
        loss: sum of weight · cross-entropy, float32 scalar, differentiable in `hidden_TH` and `head_VH`.
        losses_T: each position's unweighted cross-entropy, float32, 0 without a target; not differentiable.
    """
    loss, losses_T = _FusedCrossEntropy.apply(hidden_TH, head_VH, targets_T, weights_T)  # type: ignore[no-untyped-call]
    return loss, losses_T


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TH: torch.Tensor, head_VH: torch.Tensor, targets_T: torch.Tensor, weights_T: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        losses_T = torch.zeros(targets_T.shape, dtype=torch.float32, device=hidden_TH.device)
        hidden_grad_TH = torch.zeros_like(hidden_TH) if wanted else None
        head_grad_VH = torch.zeros(head_VH.shape, dtype=torch.float32, device=head_VH.device) if wanted else None
        chunk = CHUNK[hidden_TH.device.type]
        for start in range(0, len(targets_T), chunk):
            part = slice(start, start + chunk)
            target_C, weight_C = targets_T[part], weights_T[part]
            log_p_CV = F.log_softmax((hidden_TH[part] @ head_VH.T).float(), dim=-1)
            index_C1 = target_C.clamp(min=0).unsqueeze(1)
            picked_C1 = log_p_CV.gather(1, index_C1)
            losses_T[part] = torch.where(target_C == NO_TARGET, 0.0, -picked_C1.squeeze(1))
            if hidden_grad_TH is not None and head_grad_VH is not None:
                # d(loss)/d(logits) = weight · (softmax - onehot)
                grad_CV = log_p_CV.exp_()
                grad_CV.scatter_add_(1, index_C1, torch.full_like(picked_C1, -1.0))
                grad_CV = grad_CV.mul_(weight_C.unsqueeze(1)).to(hidden_TH.dtype)
                hidden_grad_TH[part] = grad_CV @ head_VH
                head_grad_VH.addmm_(grad_CV.T.float(), hidden_TH[part].float())
        ctx.save_for_backward(hidden_grad_TH, head_grad_VH)
        ctx.head_dtype = head_VH.dtype
        ctx.mark_non_differentiable(losses_T)
        return (losses_T * weights_T).sum(), losses_T

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        upstream = grads[0]
        hidden_grad_TH, head_grad_VH = ctx.saved_tensors
        return hidden_grad_TH * upstream, (head_grad_VH * upstream).to(ctx.head_dtype), None, None

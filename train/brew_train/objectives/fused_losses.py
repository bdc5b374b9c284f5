"""Cross-entropy and log-probabilities of a linear head, without the logits of a whole row in memory.

360Brew's fine-tuning loss of a multi-turn chat (arXiv:2501.16450, equation 3) is L = w_p·L_p + (1 - w_p)·L_mtc. L_p is
the mean cross-entropy of the whole prompt, answers included, and L_mtc that of the answers. With N targets and N_a
answer targets in the *global* step, every target has the weight w_p / N, and an answer target has (1 - w_p) / N_a in
addition. The counts are summed over all workers first, so the loss does not depend on the number of workers.
Legend: T tokens of one worker's row, P positions of it with a weight, C tokens of a chunk, H hidden size, V vocabulary.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F

__all__ = [
    "ANSWER",
    "CHUNK",
    "NO_TARGET",
    "PROMPT",
    "fused_cross_entropy",
    "token_log_probabilities",
    "token_weights",
    "uses_liger",
]

PROMPT, ANSWER = 0, 1  # roles of target tokens, as in the bins
NO_TARGET = -100  # target id of a position without a target: the last token of each document
CHUNK = {"cpu": 128, "cuda": 2048}  # tokens per chunk, so that the logits fit into the CPU's cache or occupy a GPU


def token_weights(
    roles_T: torch.Tensor, targets_T: torch.Tensor, counts_2: torch.Tensor, prompt_weight: float | None
) -> torch.Tensor:
    """Returns the weight of each position; the sum of weight · cross-entropy over all workers is the loss of the step.

    Args:
        roles_T: uint8, role of the target of each position (0 prompt, 1 answer).
        targets_T: int64, token ids; `NO_TARGET` for a position without a target.
        counts_2: numbers of prompt and answer targets in the global step.
        prompt_weight: w_p; None: the mean over all targets, which is w_p = 1.

    Returns:
        float32 [T]; 0 without a target. Without answers in the step, only the term w_p·L_p is left.
    """
    counts = counts_2.to(torch.float32)
    share = 1.0 if prompt_weight is None else prompt_weight
    prompt, answer = share / counts.sum().clamp(min=1), (1.0 - share) / counts[ANSWER].clamp(min=1)
    by_role = torch.stack([prompt, prompt + answer])
    return torch.where(targets_T == NO_TARGET, 0.0, by_role[roles_T.long()])


def uses_liger(device: torch.device) -> bool:
    """Returns whether Liger's kernels compute the losses: on a GPU, if they are installed; otherwise PyTorch does."""
    return device.type == "cuda" and find_spec("liger_kernel") is not None


def fused_cross_entropy(
    hidden_TH: torch.Tensor,
    head_VH: torch.Tensor,
    targets_T: torch.Tensor,
    weights_T: torch.Tensor,
    *,
    only_weighted: bool = False,
    liger: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the weighted cross-entropy of a linear head in chunks; needs memory for C x V logits instead of T x V.

    With a large vocabulary the head costs more than the layers, so `only_weighted` projects only positions that
    contribute to the loss. Finding them waits for the GPU. With PyTorch, the gradient is computed in the forward pass,
    while the logits are in memory, so that they are computed only once. This is the idea of Liger's fused linear
    cross-entropy (arXiv:2410.10989 §3.2).

    Args:
        hidden_TH: last hidden states, float32 or bfloat16.
        head_VH: weight of the head, same dtype. The softmax and the losses are float32 for any dtype.
        targets_T: int64, token ids; `NO_TARGET` for a position without a target.
        weights_T: float32, at least 0; 0 without a target.
        only_weighted: whether positions of weight 0 are left out; their loss is then reported as 0.
        liger: whether to use Liger's kernels; None: the result of `uses_liger`.

    Returns:
        loss: float32 scalar, sum of weight · cross-entropy; differentiable in `hidden_TH` and `head_VH`.
        losses_T: float32, unweighted cross-entropy of each position, 0 without a target; not differentiable.
    """
    if only_weighted:
        places_P = (weights_T > 0).nonzero().squeeze(1)
        loss, losses_P = fused_cross_entropy(
            hidden_TH[places_P],
            head_VH,
            targets_T[places_P],
            weights_T[places_P],
            liger=liger if len(places_P) else False,  # a kernel cannot run on an empty row
        )
        return loss, torch.zeros_like(weights_T).index_copy(0, places_P, losses_P)
    if uses_liger(hidden_TH.device) if liger is None else liger:
        losses_T = _liger_losses(hidden_TH, head_VH, targets_T)
        return (losses_T * weights_T).sum(), losses_T.detach()
    # Computed here, because gradients are always disabled inside a Function.
    needs_grad = torch.is_grad_enabled() and (hidden_TH.requires_grad or head_VH.requires_grad)
    loss, losses_T = _FusedCrossEntropy.apply(hidden_TH, head_VH, targets_T, weights_T, needs_grad)  # type: ignore[no-untyped-call]
    return loss, losses_T


def token_log_probabilities(
    hidden_TH: torch.Tensor, head_VH: torch.Tensor, targets_T: torch.Tensor, *, liger: bool | None = None
) -> torch.Tensor:
    """Computes the log-probability of each target under a linear head, for losses that are not a weighted sum of them.

    The upstream gradient of each token is known only in the backward pass, so the logits are computed again there, in
    chunks. The function needs memory for C x V logits instead of T x V.

    Args:
        hidden_TH: as in `fused_cross_entropy`.
        head_VH: as in `fused_cross_entropy`.
        targets_T: as in `fused_cross_entropy`.
        liger: as in `fused_cross_entropy`.

    Returns:
        float32 [T], differentiable in `hidden_TH` and `head_VH`; 0 without a target.
    """
    if uses_liger(hidden_TH.device) if liger is None else liger:
        return -_liger_losses(hidden_TH, head_VH, targets_T)
    logp_T: torch.Tensor = _TokenLogProbabilities.apply(hidden_TH, head_VH, targets_T)  # type: ignore[no-untyped-call]
    return logp_T


def _liger_losses(hidden_TH: torch.Tensor, head_VH: torch.Tensor, targets_T: torch.Tensor) -> torch.Tensor:
    """Computes the cross-entropy of each position, float32 [T], with Liger's Triton kernel; differentiable.

    With reduction "none", which weights per token require, Liger computes the logits again in the backward pass, as
    `_TokenLogProbabilities` does. It rounds logits to the dtype of the inputs. The gradient of the head is summed in
    float32 (`accum_dtype`).
    """
    functional = import_module("liger_kernel.transformers.functional")
    losses_T: torch.Tensor = functional.liger_fused_linear_cross_entropy(
        hidden_TH, head_VH, targets_T, ignore_index=NO_TARGET, reduction="none", accum_dtype=torch.float32
    )
    return losses_T


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: torch.Tensor,
        head_VH: torch.Tensor,
        targets_T: torch.Tensor,
        weights_T: torch.Tensor,
        needs_grad: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses_T = torch.zeros(targets_T.shape, dtype=torch.float32, device=hidden_TH.device)
        gradients = _Gradients(hidden_TH, head_VH, ctx.needs_input_grad[1]) if needs_grad else None
        for part in _chunks(hidden_TH):
            log_p_CV = F.log_softmax((hidden_TH[part] @ head_VH.T).float(), dim=-1)
            picked_C = log_p_CV.gather(1, _index(targets_T[part])).squeeze(1)
            losses_T[part] = torch.where(targets_T[part] == NO_TARGET, 0.0, -picked_C)
            if gradients is not None:
                gradients.add(part, log_p_CV.exp_(), targets_T[part], weights_T[part])
        if gradients is not None:
            ctx.save_for_backward(gradients.hidden_TH, gradients.head_VH)
        ctx.head_dtype = head_VH.dtype
        ctx.mark_non_differentiable(losses_T)
        return (losses_T * weights_T).sum(), losses_T

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None, None]:
        upstream = grads[0]
        hidden_grad_TH, head_grad_VH = ctx.saved_tensors
        head = None if head_grad_VH is None else (head_grad_VH * upstream).to(ctx.head_dtype)
        return hidden_grad_TH * upstream, head, None, None, None


class _TokenLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_TH: torch.Tensor, head_VH: torch.Tensor, targets_T: torch.Tensor) -> torch.Tensor:
        logp_T = torch.zeros(targets_T.shape, dtype=torch.float32, device=hidden_TH.device)
        norms_T = torch.zeros_like(logp_T)  # logsumexp over the vocabulary, for the backward pass
        for part in _chunks(hidden_TH):
            logits_CV = (hidden_TH[part] @ head_VH.T).float()
            norms_T[part] = logits_CV.logsumexp(dim=-1)
            logp_C = logits_CV.gather(1, _index(targets_T[part])).squeeze(1) - norms_T[part]
            logp_T[part] = torch.where(targets_T[part] == NO_TARGET, 0.0, logp_C)
        ctx.save_for_backward(hidden_TH, head_VH, targets_T, norms_T)
        return logp_T

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        hidden_TH, head_VH, targets_T, norms_T = ctx.saved_tensors
        gradients = _Gradients(hidden_TH, head_VH, ctx.needs_input_grad[1])
        scale_T = torch.where(targets_T == NO_TARGET, 0.0, -grads[0])
        for part in _chunks(hidden_TH):
            logits_CV = (hidden_TH[part] @ head_VH.T).float()
            p_CV = logits_CV.sub_(norms_T[part].unsqueeze(1)).exp_()
            gradients.add(part, p_CV, targets_T[part], scale_T[part])
        head = None if gradients.head_VH is None else gradients.head_VH.to(head_VH.dtype)
        return gradients.hidden_TH, head, None


class _Gradients:
    """Accumulates the gradients of sum(scale · cross-entropy) in hidden states and head over the chunks.

    Args:
        hidden_TH: as in `fused_cross_entropy`.
        head_VH: as in `fused_cross_entropy`.
        needs_head: whether the gradient of the head is needed; it is not if the head is frozen.
    """

    def __init__(self, hidden_TH: torch.Tensor, head_VH: torch.Tensor, needs_head: bool) -> None:
        self._inputs = hidden_TH, head_VH
        self.hidden_TH = torch.zeros_like(hidden_TH)
        self.head_VH: torch.Tensor | None = None
        if needs_head:
            self.head_VH = torch.zeros(head_VH.shape, dtype=torch.float32, device=head_VH.device)

    def add(self, part: slice, p_CV: torch.Tensor, targets_C: torch.Tensor, scale_C: torch.Tensor) -> None:
        """Adds the gradients of a chunk.

        Args:
            part: the positions of the chunk.
            p_CV: float32, softmax of the logits; it is overwritten.
            targets_C: int64, token ids.
            scale_C: float32; must be 0 without a target.
        """
        hidden_TH, head_VH = self._inputs
        index_C1 = _index(targets_C)
        # d(cross-entropy)/d(logits) = softmax - onehot
        p_CV.scatter_add_(1, index_C1, torch.full(index_C1.shape, -1.0, device=p_CV.device))
        logits_grad_CV = p_CV.mul_(scale_C.unsqueeze(1)).to(hidden_TH.dtype)
        self.hidden_TH[part] = logits_grad_CV @ head_VH
        if self.head_VH is not None:
            self.head_VH.addmm_(logits_grad_CV.T.float(), hidden_TH[part].float())


def _chunks(hidden_TH: torch.Tensor) -> Iterator[slice]:
    size = CHUNK[hidden_TH.device.type]
    return (slice(start, start + size) for start in range(0, len(hidden_TH), size))


def _index(targets_C: torch.Tensor) -> torch.Tensor:
    """Returns the targets as an index for gather, [C, 1], with id 0 in place of `NO_TARGET`."""
    return targets_C.clamp(min=0).unsqueeze(1)

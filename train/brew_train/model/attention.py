"""Attention over a packed row: each document attends to itself only, causally.

There is no dense block-diagonal mask: on CPU it would cost more than half of the training speed.
Legend: T packed tokens, H query heads, G key/value heads, D head size.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from brew_platform.errors import UserError

__all__ = ["ATTENTION", "register_attention", "varlen_attention"]

ATTENTION = "brew_varlen"  # transformers creates no mask for an unknown name
LEAST_CHUNK = 128  # tokens of a chunk under a shorter window, so that tiny windows do not make tiny products
# PyTorch 2.11 has no such argument: it shares key heads among query heads by default.
_GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}


# Not compiled: the document lengths are data, not shapes.
@torch.compiler.disable
def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Computes causal attention inside each document of one packed row.

    Half precision on a GPU uses FlashAttention: the kernel of the package flash-attn if it is installed, else PyTorch's
    own. Neither kernel supports float32 or the CPU, which use SDPA for each document, in float32. Fake tensors, which
    have no document lengths, use the call of PyTorch's kernel for any dtype; a dry run measures its memory.

    Args:
        module: the attention layer; unused, but transformers passes it.
        query: shape [1, H, T, D].
        key, value: shape [1, G, T, D]; H is a multiple of G.
        attention_mask: None, because `cu_seq_lens_q` separates the documents.
        scaling: factor of the scores; None: 1/sqrt(D).
        dropout: probability of dropping a score.
        sliding_window: each token attends to so many tokens of its document, itself included; None: to all before it.
        cu_seq_lens_q: int32, shape [documents + 1], start of each document, then T.
        max_length_q: tokens in the longest document.

    Returns:
        The attention output, shape [1, T, H, D], and None instead of the scores.

    Raises:
        UserError: `dropout` is not 0, and flash-attn is not installed; PyTorch's kernel does not support dropout.
    """
    assert attention_mask is None, "a mask beside document boundaries would be ignored"
    if isinstance(query, FakeTensor) or (query.is_cuda and query.dtype != torch.float32):
        rows_THD = [x.squeeze(0).transpose(0, 1) for x in (query, key, value)]
        window = sliding_window if sliding_window is not None and sliding_window < max_length_q else None
        out = _flash(rows_THD, cu_seq_lens_q, max_length_q, scaling=scaling, dropout=dropout, window=window)
        return out.unsqueeze(0), None
    dtype = query.dtype
    # On CPU the backward pass of SDPA in bfloat16 takes five times as long as in float32.
    query, key, value = (x.float() for x in (query, key, value))
    if key.shape[1] == 1:
        # The backward pass of SDPA runs in parallel over key heads: with one, it would use one thread.
        key, value = (x.expand(-1, query.shape[1], -1, -1) for x in (key, value))
    lengths = cu_seq_lens_q.diff().tolist()
    # torch.split instead of slices: the gradient of each slice would be a zero-filled row as long as the whole bin.
    documents = zip(*(torch.split(x, lengths, dim=2) for x in (query, key, value)), strict=True)
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}
    attended = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)
        if sliding_window is None or q.shape[2] <= sliding_window
        else _attend_in_window(q, k, v, sliding_window, options)
        for q, k, v in documents
    ]
    return torch.cat(attended, dim=2).transpose(1, 2).to(dtype), None


def _attend_in_window(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int, options: dict[str, Any]
) -> torch.Tensor:
    """Attention of one document whose tokens see the last `window` tokens; shape [1, H, T, D].

    The document is cut into chunks of at least a window, and each chunk attends to itself and the chunk before. Time
    and memory grow with T * window, not with T * T.
    """
    size = max(window, LEAST_CHUNK)
    queries, keys, values = (torch.split(x, size, dim=2) for x in (query, key, value))
    out = []
    for index, q in enumerate(queries):
        before = max(index - 1, 0)
        k, v = (torch.cat(parts[before : index + 1], dim=2) for parts in (keys, values))
        rows, columns = q.shape[2], k.shape[2]
        skipped = columns - rows  # keys of the chunk before
        mask = torch.ones(rows, columns, dtype=torch.bool, device=q.device).tril(skipped).triu(skipped - window + 1)
        out.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options))
    return torch.cat(out, dim=2)


def _flash(
    rows_THD: list[torch.Tensor],
    cu_seqlens: torch.Tensor,
    longest: int,
    *,
    scaling: float | None,
    dropout: float,
    window: int | None,
) -> torch.Tensor:
    """Applies FlashAttention to query, key and value; returns a tensor of the query's shape."""
    query_THD, key_TGD, value_TGD = rows_THD
    left = -1 if window is None else window - 1  # tokens before a token that it attends to; -1: all
    package = _flash_attn() if query_THD.is_cuda else None
    if package is not None:
        out: torch.Tensor = package.flash_attn_varlen_func(
            query_THD,
            key_TGD,
            value_TGD,
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_k=cu_seqlens,
            max_seqlen_q=longest,
            max_seqlen_k=longest,
            dropout_p=dropout,
            softmax_scale=scaling,
            causal=True,
            window_size=(left, 0),
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )
        return out
    if dropout > 0:
        raise UserError(
            f"the model drops {dropout:.0%} of its attention scores in training (attention_dropout), which PyTorch's "
            f"own FlashAttention does not support: install flash-attn, or set attention_dropout to 0 in config.json."
        )
    out_THD = varlen_attn(
        query_THD,
        key_TGD,
        value_TGD,
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        scale=scaling,
        window_size=(left, 0),  # causal
        **(_GROUPED if query_THD.shape[1] != key_TGD.shape[1] else {}),
    )
    assert isinstance(out_THD, torch.Tensor)  # no auxiliary output was requested
    return out_THD


@cache  # called once per layer and pass
def _flash_attn() -> Any:
    """Returns the package flash-attn, or None if it is not installed."""
    return import_module("flash_attn") if find_spec("flash_attn") else None


def register_attention() -> None:
    """Registers `varlen_attention` with transformers as `attn_implementation="brew_varlen"`; may be called again."""
    AttentionInterface.register(ATTENTION, varlen_attention)

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
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from brew_platform.errors import UserError

__all__ = ["ATTENTION", "register_attention", "varlen_attention"]

ATTENTION = "brew_varlen"  # transformers creates no mask for an unknown name
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
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Computes causal attention inside each document of one packed row.

    Half precision, which a GPU trains in, uses FlashAttention: the kernel of the package flash-attn if it is installed,
    else PyTorch's own. Neither kernel supports float32, which uses SDPA for each document.

    Args:
        module: the attention layer; unused, but transformers passes it.
        query: shape [1, H, T, D].
        key, value: shape [1, G, T, D]; H is a multiple of G.
        attention_mask: None, because `cu_seq_lens_q` separates the documents.
        scaling: factor of the scores; None: 1/sqrt(D).
        dropout: probability of dropping a score.
        cu_seq_lens_q: int32, shape [documents + 1], start of each document, then T.
        max_length_q: tokens in the longest document.

    Returns:
        The attention output, shape [1, T, H, D], and None instead of the scores.

    Raises:
        UserError: `dropout` is not 0, and flash-attn is not installed; PyTorch's kernel does not support dropout.
    """
    assert attention_mask is None, "a mask beside document boundaries would be ignored"
    if query.dtype != torch.float32:
        rows_THD = [x.squeeze(0).transpose(0, 1) for x in (query, key, value)]
        return _flash(rows_THD, cu_seq_lens_q, max_length_q, scaling=scaling, dropout=dropout).unsqueeze(0), None
    lengths = cu_seq_lens_q.diff().tolist()
    # torch.split instead of slices: the gradient of each slice would be a zero-filled row as long as the whole bin.
    documents = zip(*(torch.split(x, lengths, dim=2) for x in (query, key, value)), strict=True)
    grouped = query.shape[1] != key.shape[1]
    out = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=grouped)
        for q, k, v in documents
    ]
    return torch.cat(out, dim=2).transpose(1, 2), None


def _flash(
    rows_THD: list[torch.Tensor], cu_seqlens: torch.Tensor, longest: int, *, scaling: float | None, dropout: float
) -> torch.Tensor:
    """Applies FlashAttention to query, key and value; returns a tensor of the query's shape."""
    query_THD, key_TGD, value_TGD = rows_THD
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
        window_size=(-1, 0),  # causal
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

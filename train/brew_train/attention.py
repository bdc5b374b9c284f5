"""Attention over a packed row: each document attends to itself only, causally.

Owns: the attention function and its registration with transformers. Does not own: position ids (brew_train.batches).
No dense block-diagonal mask is ever made: on CPU that costs more than half of the training speed. Legend: T packed
tokens, H query heads, G key/value heads, D head size.
"""

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

__all__ = ["ATTENTION", "register_attention", "varlen_attention"]

ATTENTION = "brew_varlen"  # transformers makes no mask for a name that it has no mask function for


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
    """Causal attention inside each document of one packed row.

    Args:
        module: the attention layer; not used, transformers passes it.
        query: shape [1, H, T, D].
        key, value: shape [1, G, T, D]; H is a multiple of G.
        attention_mask: must be None: documents are told apart by `cu_seq_lens_q`.
        scaling: of the scores; None means 1/sqrt(D).
        dropout: probability of dropping a score.
        cu_seq_lens_q: int32, shape [documents + 1]: where each document starts, and T.
        max_length_q: tokens in the longest document.

    Returns:
        The attended values, shape [1, T, H, D], and None (no scores are kept).
    """
    assert attention_mask is None, "a mask beside document boundaries would be ignored"
    if query.is_cuda:
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]  # GPU machines only

        out_THD = flash_attn_varlen_func(
            *(x.squeeze(0).transpose(0, 1) for x in (query, key, value)),
            cu_seqlens_q=cu_seq_lens_q,
            cu_seqlens_k=cu_seq_lens_q,
            max_seqlen_q=max_length_q,
            max_seqlen_k=max_length_q,
            dropout_p=dropout,
            softmax_scale=scaling,
            causal=True,
        )
        return out_THD.unsqueeze(0), None
    lengths = cu_seq_lens_q.diff().tolist()
    # split, not slices: the gradient of a slice is a zero-filled row as long as the whole bin, once per document.
    documents = zip(*(torch.split(x, lengths, dim=2) for x in (query, key, value)), strict=True)
    grouped = query.shape[1] != key.shape[1]
    out = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=grouped)
        for q, k, v in documents
    ]
    return torch.cat(out, dim=2).transpose(1, 2), None


def register_attention() -> None:
    """Makes `attn_implementation="brew_varlen"` known to transformers; may be called again."""
    AttentionInterface.register(ATTENTION, varlen_attention)

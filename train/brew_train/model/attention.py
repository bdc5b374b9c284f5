"""Attention over a packed row: each segment attends to itself, causally, and each candidate of a slate to its prefix.

There is no dense block-diagonal mask: on CPU it would cost more than half of the training speed.
Legend: T packed tokens, H query heads, G key/value heads, D head size, S segments (documents, and the prefixes and
candidates of slates: `brew_data.segments`), K keys of all segments.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any, NamedTuple

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
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_k: int | None = None,
    key_places: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Computes causal attention inside each segment of one packed row.

    The layers compute the tokens of a prefix once. A candidate is a sequence of its own, whose keys are those of its
    prefix, copied, and its own. The causal mask of fewer queries than keys is aligned at their ends.

    Half precision on a GPU uses FlashAttention: the kernel of the package flash-attn if it is installed, else PyTorch's
    own. Neither kernel supports float32 or the CPU, which use SDPA for each segment, in float32. Fake tensors, which
    have no document lengths, use the call of PyTorch's kernel for any dtype; a dry run measures its memory.

    Args:
        module: the attention layer; unused, but transformers passes it.
        query: shape [1, H, T, D].
        key, value: shape [1, G, T, D]; H is a multiple of G.
        attention_mask: None, because `cu_seq_lens_q` separates the segments.
        scaling: factor of the scores; None: 1/sqrt(D).
        dropout: probability of dropping a score.
        sliding_window: each token attends to so many tokens of its document, itself included; None: to all before it.
        cu_seq_lens_q: int32, shape [S + 1], start of each segment, then T.
        max_length_q: tokens in the longest segment.
        cu_seq_lens_k: int32, shape [S + 1], start of the keys of each segment in `key_places`, then K.
        max_length_k: keys of the segment with the most.
        key_places: int64, shape [K], the tokens that each segment attends to: those of its prefix, then its own. None:
            no segment has a prefix, and the keys are divided as the queries.

    Returns:
        The attention output, shape [1, T, H, D], and None instead of the scores.

    Raises:
        UserError: `dropout` is not 0, and flash-attn is not installed; PyTorch's kernel does not support dropout.
    """
    assert attention_mask is None, "a mask beside the boundaries of segments would be ignored"
    if key_places is None:
        cu_seq_lens_k, max_length_k = cu_seq_lens_q, max_length_q
    else:
        key, value = (x.index_select(2, key_places) for x in (key, value))
    assert cu_seq_lens_k is not None
    assert max_length_k is not None
    if isinstance(query, FakeTensor) or (query.is_cuda and query.dtype != torch.float32):
        rows_THD = [x.squeeze(0).transpose(0, 1) for x in (query, key, value)]
        window = sliding_window if sliding_window is not None and sliding_window < max_length_k else None
        bounds = _Bounds(cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k)
        return _flash(rows_THD, bounds, scaling=scaling, dropout=dropout, window=window).unsqueeze(0), None
    dtype = query.dtype
    # On CPU the backward pass of SDPA in bfloat16 takes five times as long as in float32.
    query, key, value = (x.float() for x in (query, key, value))
    if key.shape[1] == 1:
        # The backward pass of SDPA runs in parallel over key heads: with one, it would use one thread.
        key, value = (x.expand(-1, query.shape[1], -1, -1) for x in (key, value))
    tokens, keys = (bounds.diff().tolist() for bounds in (cu_seq_lens_q, cu_seq_lens_k))
    # torch.split instead of slices: the gradient of each slice would be a zero-filled row as long as the whole bin.
    parts = zip(
        *(torch.split(x, lengths, dim=2) for x, lengths in ((query, tokens), (key, keys), (value, keys))), strict=True
    )
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}
    attended = [_attend(q, k, v, sliding_window, options) for q, k, v in parts]
    return torch.cat(attended, dim=2).transpose(1, 2).to(dtype), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None, options: dict[str, Any]
) -> torch.Tensor:
    """Attention of one segment, whose last tokens are the queries; shape [1, H, queries, D]."""
    queries, keys = query.shape[2], key.shape[2]
    if window is not None and window < keys:
        if queries == keys:
            return _attend_in_window(query, key, value, window, options)
        key, value = (x[:, :, -(queries + window - 1) :] for x in (key, value))
    elif queries == keys:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, **options)
    mask = _last_rows(queries, key.shape[2], window, query.device)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, **options)


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
        mask = _last_rows(q.shape[2], k.shape[2], window, q.device)
        out.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options))
    return torch.cat(out, dim=2)


def _last_rows(queries: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Returns the last rows of a causal mask, bool [queries, keys]; a row has at most `window` keys."""
    before = keys - queries  # keys before the first query
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(before)
    return mask if window is None else mask.triu(before - window + 1)


class _Bounds(NamedTuple):
    """Where the queries and the keys of each segment are in a row."""

    cu_seqlens_q: torch.Tensor
    cu_seqlens_k: torch.Tensor
    max_seqlen_q: int
    max_seqlen_k: int


def _flash(
    rows_THD: list[torch.Tensor],
    bounds: _Bounds,
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
            **bounds._asdict(),
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
        *bounds,
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

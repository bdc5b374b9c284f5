"""Packs bins into the row of tokens that one forward pass reads.

Imports only torch and numpy. Legend: T tokens of the row, S segments (documents, and the prefixes and
candidates of slates: `brew_data.segments`), K keys.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from brew_train.objectives.fused_losses import ANSWER, NO_TARGET, PROMPT

__all__ = ["Batch", "Bin", "collate"]


@dataclass(frozen=True, kw_only=True)
class Bin:
    """One packed bin."""

    input_ids: np.ndarray  # int32 [tokens]
    doc_lengths: np.ndarray  # int32 [documents]; sums to tokens
    roles: np.ndarray  # uint8 [tokens]: 0 prompt, 1 answer
    # int32 [segments]: tokens of each segment, and how many of the first tokens of its document it also attends to.
    # Empty if each document is one segment.
    segment_lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    segment_prefixes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return int(sum(array.nbytes for array in vars(self).values()))

    def copy(self) -> "Bin":
        """Returns a bin whose arrays share no memory with others."""
        return Bin(**{name: array.copy() for name, array in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One worker's share of a step, packed into a single row of T tokens."""

    input_ids_1T: torch.Tensor  # int64
    position_ids_1T: torch.Tensor  # int64, from 0 in each document; those of a candidate continue its prefix
    cu_seqlens: torch.Tensor  # int32 [S + 1]: start of each segment, then T
    max_length: int  # tokens in the longest segment
    # int64: what each segment attends to, causally: the places in the row of its prefix, then its own. None: no segment
    # has a prefix.
    key_places_K: torch.Tensor | None
    cu_seqlens_k: torch.Tensor  # int32 [S + 1]: start of the keys of each segment, then K
    max_length_k: int  # keys of the segment with the most
    targets_T: torch.Tensor  # int64: the next token of the same segment; NO_TARGET at the end of a segment
    roles_T: torch.Tensor  # uint8: role of the target

    @property
    def tokens(self) -> int:
        """Number of tokens in the row; there is no padding."""
        return len(self.targets_T)

    def squared_lengths(self) -> torch.Tensor:
        """Returns the sum of the squared lengths of the documents, float64; the cost of attention depends on it.

        A candidate of a slate adds what its tokens add to the document of this prefix and this candidate.
        """
        keys_S, tokens_S = (bounds.diff().double() for bounds in (self.cu_seqlens_k, self.cu_seqlens))
        return (keys_S.square() - (keys_S - tokens_S).square()).sum()

    def counts(self) -> torch.Tensor:
        """Returns the numbers of prompt targets, answer targets, and pairs of documents, float64 [3]."""
        valid_T = self.targets_T != NO_TARGET
        pairs = torch.tensor((len(self.cu_seqlens) - 1) // 2, device=valid_T.device)
        return torch.stack([*((valid_T & (self.roles_T == role)).sum() for role in (PROMPT, ANSWER)), pairs]).double()

    def to(self, device: torch.device) -> "Batch":
        """Returns the batch on `device`."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **moved)


def collate(bins: list[Bin]) -> Batch:
    """Packs bins into one row.

    Args:
        bins: at least one.

    Returns:
        A batch on the CPU with the documents of the bins, in their order.
    """
    ids_T = np.concatenate([b.input_ids for b in bins])
    roles_T = np.concatenate([b.roles for b in bins])
    lengths, prefixes = _segments(bins)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    targets_T = np.append(ids_T[1:], 0).astype(np.int64)
    targets_T[ends - 1] = NO_TARGET
    key_lengths = prefixes + lengths
    return Batch(
        input_ids_1T=torch.from_numpy(ids_T.astype(np.int64)).unsqueeze(0),
        position_ids_1T=torch.from_numpy(np.arange(len(ids_T)) - np.repeat(starts - prefixes, lengths)).unsqueeze(0),
        cu_seqlens=torch.from_numpy(np.append(starts, len(ids_T)).astype(np.int32)),
        max_length=int(lengths.max()),
        key_places_K=torch.from_numpy(_keys(starts, lengths, prefixes)) if prefixes.any() else None,
        cu_seqlens_k=torch.from_numpy(np.append(0, np.cumsum(key_lengths)).astype(np.int32)),
        max_length_k=int(key_lengths.max()),
        targets_T=torch.from_numpy(targets_T),
        roles_T=torch.from_numpy(np.append(roles_T[1:], np.uint8(PROMPT))),
    )


def _segments(bins: list[Bin]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens of each segment, and how many of the first tokens of its document it also attends to; [S]."""
    parts = [
        (b.segment_lengths, b.segment_prefixes)
        if len(b.segment_lengths)
        else (b.doc_lengths, np.zeros_like(b.doc_lengths))
        for b in bins
    ]
    lengths, prefixes = (np.concatenate(part) for part in zip(*parts, strict=True))
    return lengths, prefixes


def _keys(starts: np.ndarray, lengths: np.ndarray, prefixes: np.ndarray) -> np.ndarray:
    """Returns the places of the keys of each segment: the first `prefix` tokens of its document, then its own; int64.

    Args:
        starts, lengths, prefixes: of each segment; a segment without a prefix is the first of its document.
    """
    document_starts = np.maximum.accumulate(np.where(prefixes == 0, starts, 0))
    first = np.stack([document_starts, starts], axis=1).ravel()  # of two runs of places for each segment
    counts = np.stack([prefixes, lengths], axis=1).ravel()
    run_starts = np.cumsum(counts) - counts
    return np.arange(counts.sum(), dtype=np.int64) + np.repeat(first - run_starts, counts)

"""Packs bins into the row of tokens that one forward pass reads.

Imports only torch and numpy. Legend: T tokens of the row, D documents.
"""

from dataclasses import dataclass, replace
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
    position_ids_1T: torch.Tensor  # int64, from 0 in each document
    cu_seqlens: torch.Tensor  # int32 [D + 1]: start of each document, then T
    max_length: int  # tokens in the longest document
    targets_T: torch.Tensor  # int64: the next token of the same document; NO_TARGET at the end of a document
    roles_T: torch.Tensor  # uint8: role of the target

    @property
    def tokens(self) -> int:
        """Number of tokens in the row; there is no padding."""
        return len(self.targets_T)

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
    lengths = np.concatenate([b.doc_lengths for b in bins])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    targets_T = np.append(ids_T[1:], 0).astype(np.int64)
    targets_T[ends - 1] = NO_TARGET
    return Batch(
        input_ids_1T=torch.from_numpy(ids_T.astype(np.int64)).unsqueeze(0),
        position_ids_1T=torch.from_numpy(np.arange(len(ids_T)) - np.repeat(starts, lengths)).unsqueeze(0),
        cu_seqlens=torch.from_numpy(np.append(starts, len(ids_T)).astype(np.int32)),
        max_length=int(lengths.max()),
        targets_T=torch.from_numpy(targets_T),
        roles_T=torch.from_numpy(np.append(roles_T[1:], np.uint8(PROMPT))),
    )

"""Grows the vocabulary of a base model for control tokens that its tokenizer lacks.

The rows of new tokens are drawn around the mean of the existing rows, in the input and in the output matrix. Then a new
token has about the average probability of a token, at most 1 / rows where its row is the mean itself (Jensen's
inequality), so the model's predictions hardly change before training. Source: J. Hewitt, Initializing New Word
Embeddings for Pretrained Language Models (2021); transformers' resize_token_embeddings does the same.

Rows beyond the tokenizer's ids only fill the matrix up to a multiple. They are drawn likewise. They are never a target,
so training lowers their probability further; scoring compares labels, which are ids of the tokenizer; and text
generation stops at an id without a token.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from brew_platform.errors import UserError

__all__ = ["MOST_ADDED_TOKENS", "VocabularyPlan", "is_vocabulary_matrix", "new_rows", "plan_vocabulary"]

MOST_ADDED_TOKENS = 16  # a tokenizer with more ids than the model and these belongs to another model
SPREAD = 0.1  # standard deviation of new rows, relative to that of the existing rows: distinct, but near the mean
ROWS_PER_READ = 4096  # fixed, so that the sums do not depend on the sharding
_MATRICES = ("embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True, kw_only=True)
class VocabularyPlan:
    """The number of rows of a model's embeddings.

    Args:
        base: rows in the base model's files.
        rows: ids of the tokenizer.
        padded: rows of the trained model; `base` if the base model has enough.
    """

    base: int
    rows: int
    padded: int


def plan_vocabulary(*, base: int, rows: int, multiple: int, model: str) -> VocabularyPlan:
    """Decides how many rows the embeddings of a model get.

    Args:
        base: rows in the base model's files.
        rows: ids of the tokenizer.
        multiple: the number of rows is rounded up to a multiple of this if tokens are added.
        model: folder of the base model, for the error message.

    Raises:
        UserError: the tokenizer has far more ids than the model, so it belongs to another one.
    """
    if rows > base + MOST_ADDED_TOKENS:
        raise UserError(
            f"the model in {model} has {base} token ids, but the bins were made with {rows}: build the data with the "
            f"tokenizer of that model (tokenizer.from)."
        )
    return VocabularyPlan(base=base, rows=rows, padded=base if rows <= base else -(-rows // multiple) * multiple)


def is_vocabulary_matrix(name: str) -> bool:
    """Whether a tensor of a checkpoint has one row per token id: the input embeddings, or the output head."""
    return name.endswith(_MATRICES)


def new_rows(name: str, read: Callable[[slice], torch.Tensor], *, base: int, padded: int, seed: int) -> torch.Tensor:
    """Draws the rows that a matrix lacks. The result depends on the matrix and the seed only, not on the sharding.

    Args:
        name: of the tensor; matrices have different draws.
        read: returns the given rows of the base model's matrix, [rows, H], any float dtype, on the CPU.
        base: rows in the base model's files.
        padded: rows of the trained model.
        seed: of the draw.

    Returns:
        Float32 [padded - base, H]. At most `ROWS_PER_READ` rows of the matrix are in memory besides.
    """
    total_H = squares_H = torch.zeros((), dtype=torch.float64)
    for start in range(0, base, ROWS_PER_READ):
        rows_RH = read(slice(start, min(start + ROWS_PER_READ, base))).double()
        total_H, squares_H = total_H + rows_RH.sum(0), squares_H + rows_RH.square().sum(0)
    mean_H = total_H / base
    deviation_H = (squares_H / base - mean_H.square()).clamp(min=0).sqrt()
    digest = hashlib.sha256(f"{seed}/{name}/new rows".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    noise_NH = torch.empty(padded - base, mean_H.shape[0]).normal_(generator=generator)
    return mean_H.float() + SPREAD * deviation_H.float() * noise_NH

"""Gives every control token of the data a row in the embeddings of a base model that can be trained.

Tokens that the base's tokenizer lacks get new rows. So do reserved tokens whose rows are zero because they were never
trained, as in Llama 3: the model could not tell their roles apart, and would learn them slowly.

The rows of new tokens are drawn around the mean of the existing rows, in the input and in the output matrix. Then a new
token has about the average probability of a token, at most 1 / rows where its row is the mean itself (Jensen's
inequality), so the model's predictions hardly change before training. Source: J. Hewitt, Initializing New Word
Embeddings for Pretrained Language Models (2021); transformers' resize_token_embeddings does the same.

Rows beyond the tokenizer's ids only fill the matrix up to a multiple. They are drawn likewise. They are never a target,
so training lowers their probability further; scoring compares labels, which are ids of the tokenizer; and text
generation stops at an id without a token.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from brew_platform.errors import UserError

__all__ = ["MOST_ADDED_TOKENS", "VocabularyPlan", "is_vocabulary_matrix", "plan_vocabulary", "vocabulary_rows"]

MOST_ADDED_TOKENS = 16  # a tokenizer with more ids than the model and these belongs to another model
SPREAD = 0.1  # standard deviation of new rows, relative to that of the existing rows: distinct, but near the mean
UNTRAINED = 1e-6  # largest absolute value in a row that was never trained
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


def vocabulary_rows(
    name: str,
    read: Callable[[slice], torch.Tensor],
    rows: slice,
    *,
    base: int,
    padded: int,
    control_ids: Sequence[int],
    seed: int,
) -> torch.Tensor:
    """Returns rows of a vocabulary matrix of the trained model. They do not depend on the sharding.

    Args:
        name: of the tensor; matrices have different draws.
        read: returns rows of the base model's matrix, [rows, H], any float dtype, on the CPU.
        rows: the rows to return, with start and stop.
        base: rows in the base model's files.
        padded: rows of the trained model.
        control_ids: tokens with a role in a chat.
        seed: of the draw.

    Returns:
        [stop - start, H]; float32 if rows were drawn. At most `ROWS_PER_READ` rows of the matrix are in memory besides.
    """
    stored_RH = read(slice(rows.start, min(rows.stop, base))) if rows.start < base else None
    untrained = [
        id_
        for id_ in sorted(control_ids)
        if stored_RH is not None
        and rows.start <= id_ < min(rows.stop, base)
        and stored_RH[id_ - rows.start].abs().max() < UNTRAINED
    ]
    if stored_RH is not None and rows.stop <= base and not untrained:
        return stored_RH
    mean_H, deviation_H = _statistics(read, base)

    def draw(label: str, count: int) -> torch.Tensor:
        digest = hashlib.sha256(f"{seed}/{name}/{label}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        return mean_H + SPREAD * deviation_H * torch.empty(count, len(mean_H)).normal_(generator=generator)

    parts = []
    if stored_RH is not None:
        stored_RH = stored_RH.to(torch.float32, copy=bool(untrained))  # `read` may return a view
        for id_ in untrained:
            stored_RH[id_ - rows.start] = draw(f"row {id_}", 1)[0]
        parts.append(stored_RH)
    if rows.stop > base:
        parts.append(draw("new rows", padded - base)[max(rows.start - base, 0) : rows.stop - base])
    return torch.cat(parts)


def _statistics(read: Callable[[slice], torch.Tensor], base: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation over the rows of a matrix, float32 [H] each."""
    total_H = squares_H = torch.zeros((), dtype=torch.float64)
    for start in range(0, base, ROWS_PER_READ):
        rows_RH = read(slice(start, min(start + ROWS_PER_READ, base))).double()
        total_H, squares_H = total_H + rows_RH.sum(0), squares_H + rows_RH.square().sum(0)
    mean_H = total_H / base
    deviation_H = (squares_H / base - mean_H.square()).clamp(min=0).sqrt()
    return mean_H.float(), deviation_H.float()

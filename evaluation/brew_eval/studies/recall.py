"""Recall of training text: how much of a document does the model continue word by word?

The model continues the beginning of documents by the likeliest tokens. ROUGE-L compares the continuation with the
document by their longest common subsequence L: precision = L / tokens of the continuation, recall = L / tokens of the
document's part. Documents that were not trained are the control: what the model recalls of them is language, not
memory.

Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3.1. Tokens are those of the model,
so that every language counts alike and nothing is stemmed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brew_data.packed_bins.packed_documents import read_bin
from brew_data.packed_bins.plan import BinsPlan
from brew_eval.studies.probe import ProbedModel, gather_in_order, mean_figure
from brew_eval.studies.study_table import StudyPoint
from brew_platform.errors import UserError
from brew_platform.settings import NonNegativeInt, PositiveInt, Settings
from brew_serve.engines.base import Sampling, generate

__all__ = ["RecallConfig", "choose_documents", "longest_common_subsequence", "measure_recall", "rouge_l"]


@dataclass(frozen=True, kw_only=True)
class RecallConfig(Settings):
    """Settings of a recall study."""

    bins: str = "bins"  # folder of the trained documents, in the data folder
    control: str = "evaluation"  # folder of documents that were not trained
    documents: PositiveInt = 50  # documents of each
    # Tokens of a document that the model reads. Instruction and profile are its first ones; with fewer tokens than
    # these, trained documents and others begin alike
    prompt_tokens: PositiveInt = 64
    continuation_tokens: PositiveInt = 32  # tokens that it continues
    seed: NonNegativeInt = 0  # of the choice of documents
    in_flight: PositiveInt = 16  # prompts in the engine at a time


def longest_common_subsequence(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the longest common subsequence, in len(first) * len(second) steps, a row at a time."""
    other = np.asarray(second)
    row = np.zeros(len(other) + 1, np.int64)
    for token in first:
        # Lengths never fall along a row, so a running maximum replaces the comparison with the cell to the left.
        row[1:] = np.maximum.accumulate(np.maximum(row[1:], row[:-1] + (other == token)))
    return int(row[-1])


def rouge_l(text: Sequence[int], reference: Sequence[int]) -> tuple[float, float]:
    """Return ROUGE-L precision and recall of a text; both are 0 if the text is empty."""
    if not text or not reference:
        return 0.0, 0.0
    common = longest_common_subsequence(text, reference)
    return common / len(text), common / len(reference)


def choose_documents(folder: Path, config: RecallConfig) -> list[tuple[int, ...]]:
    """Return documents that are long enough, from bins that are drawn.

    Raises:
        UserError: There are no bins, or no document is long enough.
    """
    needed = config.prompt_tokens + config.continuation_tokens
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist, so there are no documents to continue. Set recall.bins and control.")
    plan = BinsPlan.load(folder)
    found: list[tuple[int, ...]] = []
    for bin_id in np.random.default_rng(config.seed).permutation(plan.n_bins).tolist():
        found += [tuple(d.ids.tolist()) for d in read_bin(folder, plan, bin_id) if len(d.ids) >= needed]
        if len(found) >= config.documents:
            break
    if not found:
        raise UserError(
            f"no document of {folder} has {needed} tokens. Set smaller recall.prompt_tokens and continuation_tokens."
        )
    return found[: config.documents]


async def measure_recall(model: ProbedModel, config: RecallConfig) -> list[StudyPoint]:
    """Continue documents that were trained, and others.

    Returns:
        The figures `rouge_l precision` and `rouge_l recall` of the series `trained` and `not trained`.

    Raises:
        UserError: As `choose_documents`.
    """
    points = []
    for series, name in (("trained", config.bins), ("not trained", config.control)):
        documents = choose_documents(model.data.folder / name, config)

        async def scores(ids: tuple[int, ...]) -> tuple[float, float]:
            end = config.prompt_tokens + config.continuation_tokens
            prompt, reference = ids[: config.prompt_tokens], ids[config.prompt_tokens : end]
            text = await generate(
                model.engine, prompt, Sampling(max_tokens=config.continuation_tokens, temperature=0.0)
            )
            return rouge_l(text.ids, reference)

        found = await gather_in_order(scores, documents, in_flight=config.in_flight)
        for place, figure in enumerate(("rouge_l precision", "rouge_l recall")):
            value = mean_figure([pair[place] for pair in found])
            points.append(StudyPoint(figure=figure, series=series, point=series, value=value, rows=len(found)))
    return points

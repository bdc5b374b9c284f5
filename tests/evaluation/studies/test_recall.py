"""ROUGE-L, and the recall of models that have memorised the trained documents, or nothing."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_eval.studies.probe import ProbedModel
from brew_eval.studies.recall import (
    RecallConfig,
    choose_documents,
    longest_common_subsequence,
    measure_recall,
    rouge_l,
)
from brew_platform.errors import UserError

from .conftest import Rule

CONFIG = RecallConfig(prompt_tokens=90, continuation_tokens=20)  # the first 60 are the same for all members
Tokens = st.lists(st.integers(0, 3), max_size=8)


def is_subsequence(part: Sequence[int], whole: Sequence[int]) -> bool:
    rest = iter(whole)
    return all(token in rest for token in part)


@given(Tokens, Tokens)
def test_the_longest_common_subsequence_is_the_longest_part_of_both(first: list[int], second: list[int]) -> None:
    found = longest_common_subsequence(first, second)
    lengths = (n for n in range(len(first), -1, -1) for part in combinations(first, n) if is_subsequence(part, second))
    assert found == next(lengths)


def test_precision_and_recall() -> None:
    # Lin 2004, section 3.1: "police killed the gunman" and "police kill the gunman" share three words.
    reference, text = [1, 2, 3, 4], [1, 5, 3, 4]
    assert rouge_l(text, reference) == (0.75, 0.75)
    assert rouge_l([1, 9, 9, 2], [1, 2]) == (0.5, 1.0)
    assert rouge_l([], [1]) == (0.0, 0.0)


def memory(documents: Sequence[Sequence[int]]) -> Rule:
    """Return a model that continues these documents word by word, and anything else by the token 0."""

    def rule(prompt: Sequence[int]) -> int:
        ids = tuple(prompt)
        return next((int(d[len(ids)]) for d in documents if tuple(d[: len(ids)]) == ids and len(d) > len(ids)), 0)

    return rule


def test_a_model_that_memorised_the_training_text(probed: Callable[[Rule], ProbedModel]) -> None:
    trained = choose_documents(probed(lambda ids: 0).data.folder / "bins", CONFIG)
    points = asyncio.run(measure_recall(probed(memory(trained)), CONFIG))
    figures = {(point.figure, point.series): point.value.value for point in points}
    assert figures["rouge_l precision", "trained"] == figures["rouge_l recall", "trained"] == 1.0
    assert figures["rouge_l recall", "not trained"] == 0.0


def test_documents_that_are_missing_or_too_short_are_refused(probed: Callable[[Rule], ProbedModel]) -> None:
    folder = probed(lambda ids: 0).data.folder
    with pytest.raises(UserError, match="no document of .* has 100060 tokens"):
        choose_documents(folder / "bins", RecallConfig(prompt_tokens=100_000, continuation_tokens=60))
    with pytest.raises(UserError, match="nowhere does not exist"):
        choose_documents(folder / "nowhere", CONFIG)

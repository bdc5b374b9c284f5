"""Needles: where they are, what they differ in, and figures of models that read all, nothing, or the last tokens."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import pytest

from brew_eval.studies.needle import NeedleConfig, measure_needles, needle_pairs, rope_variants
from brew_eval.studies.probe import ProbedModel
from brew_platform.errors import ConfigError, UserError
from brew_serve.engines.rope_scaling import RopeScaling, rope_overrides

from .conftest import Rule

Make = Callable[[Rule], ProbedModel]
CONFIG = NeedleConfig(lengths=[120, 220], depths=[0.0, 0.5, 1.0], prompts=6)


def reader(window: int | None) -> Rule:
    """Return a model that repeats the answer of the earlier turn with the same question, if its window has one."""

    def rule(prompt: Sequence[int]) -> int:
        ids = list(prompt)
        start = max(n for n in range(len(ids) - 1) if ids[n] == USER[0])
        question = ids[start:]
        first = 0 if window is None else max(len(ids) - window, 0)
        for place in range(first, start):
            if ids[place : place + len(question)] == question:
                return ids[place + len(question)]
        return 0

    return rule


USER = [0]


@pytest.fixture(autouse=True)
def user_token(probed: Make) -> None:
    USER[0] = probed(lambda prompt: 0).compiler.tokenizer.user


@pytest.mark.parametrize("depth", [0.0, 0.4, 1.0])
def test_pairs_differ_in_the_needles_answer_only(probed: Make, depth: float) -> None:
    model = probed(lambda prompt: 0)
    pairs = list(islice(needle_pairs(model, CONFIG, 220, depth), 5))
    assert pairs == list(islice(needle_pairs(model, CONFIG, 220, depth), 5))
    assert len({pair.positive for pair in pairs}) == 5
    for pair in pairs:
        different = [n for n, (a, b) in enumerate(zip(pair.positive, pair.negative, strict=True)) if a != b]
        assert different
        assert pair.needle <= different[0]
        assert len(pair.positive) + len(pair.question) < 220
        assert len(pair.positive) + len(pair.question) > 220 - 40
        end = pair.needle + len(pair.question)
        assert pair.positive[pair.needle : end] == pair.question
        share = pair.needle / len(pair.positive)
        assert abs(share - depth) < 0.45
        occurrences = [
            n for n in range(len(pair.positive)) if pair.positive[n : n + len(pair.question)] == pair.question
        ]
        assert occurrences == [pair.needle]


def figures(model: ProbedModel, **changes: Any) -> dict[tuple[float | None, float | None], float | None]:
    points = asyncio.run(measure_needles(model, CONFIG, "no scaling", context=1_000, **changes))
    return {(point.x, point.y): point.value.value for point in points}


def test_a_model_that_reads_everything_finds_all(probed: Make) -> None:
    assert set(figures(probed(reader(None))).values()) == {1.0}


def test_a_model_that_reads_nothing_is_at_chance(probed: Make) -> None:
    assert set(figures(probed(lambda prompt: 0)).values()) == {0.5}


def test_a_model_with_a_window_finds_the_newest(probed: Make) -> None:
    found = figures(probed(reader(60)))
    assert found[220.0, 1.0] == 1.0
    assert found[220.0, 0.0] == 0.5


def test_lengths_beyond_the_context_are_left_out(probed: Make) -> None:
    points = asyncio.run(measure_needles(probed(reader(None)), CONFIG, "no scaling", context=200))
    assert {point.x for point in points} == {120.0, None}
    with pytest.raises(UserError, match="no tokens for a history"):
        next(needle_pairs(probed(reader(None)), CONFIG, 40, 0.5))


def test_variants_are_the_grid_and_the_base_of_training() -> None:
    model = {"hidden_size": 64, "num_attention_heads": 2, "rope_theta": 10_000.0, "max_position_embeddings": 512}
    config = NeedleConfig(alphas=[1, 2, 4], original_lengths=[256, 512], extrapolate=True)
    found = rope_variants(config, model)
    assert len(found) == 7
    assert found["alpha 2, original length 256"] == RopeScaling(alpha=2.0, original_length=256)
    plain = rope_overrides(model, found["base of training"])
    assert plain["rope_parameters"]["rope_theta"] == pytest.approx(10_000)
    assert plain["max_position_embeddings"] == 2048
    assert rope_variants(NeedleConfig(), model) == {"no scaling": None}
    with pytest.raises(ConfigError, match="depths of the needle study is empty"):
        NeedleConfig(depths=[])

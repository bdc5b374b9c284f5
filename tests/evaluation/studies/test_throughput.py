"""Throughput counts the prompts of each length."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from brew_eval.studies.probe import ProbedModel
from brew_eval.studies.throughput import ThroughputConfig, measure_throughput
from brew_platform.errors import ConfigError, UserError

from .conftest import Rule


def test_each_length_has_its_rates(probed: Callable[[Rule], ProbedModel]) -> None:
    seen: list[tuple[int, ...]] = []

    def rule(ids: Sequence[int]) -> int:
        seen.append(tuple(ids))
        return 0

    model = probed(rule)
    config = ThroughputConfig(lengths=[8, 64], tokens=128, repeats=2)
    points = asyncio.run(measure_throughput(model, config, context=512))
    assert [(point.figure, point.x, point.rows) for point in points] == [
        ("prompts per second", 8.0, 32), ("tokens per second", 8.0, 32),
        ("prompts per second", 64.0, 4), ("tokens per second", 64.0, 4),
    ]  # fmt: skip
    assert all((point.value.low or 0) <= (point.value.value or 0) <= (point.value.high or 0) for point in points)
    assert len(seen) == len(set(seen)) == 2 + 32 + 4


def test_lengths_that_cannot_be_read_are_refused(probed: Callable[[Rule], ProbedModel]) -> None:
    with pytest.raises(UserError, match="the model reads 63 tokens"):
        asyncio.run(measure_throughput(probed(lambda ids: 0), ThroughputConfig(lengths=[64]), context=64))
    with pytest.raises(ConfigError, match="is empty"):
        ThroughputConfig(lengths=[])

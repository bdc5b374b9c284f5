"""What the probes of a study share: a probe measures one loaded model and returns points of the study's table."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from brew_data.data_folder import DataFolder
from brew_data.prompts.compiler import PromptCompiler
from brew_data.records import Records
from brew_eval.intervals import Bootstrap, Figure
from brew_eval.metrics.base import Ratio
from brew_serve.engines.base import Engine, Sampling

__all__ = ["REPLICATES", "ProbedModel", "gather_in_order", "mean_figure"]

REPLICATES, LEVEL = 1000, 0.95
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class ProbedModel:
    """A model that a probe measures.

    Args:
        engine: Runs it.
        compiler: Its prompts.
        data: Members and documents for the prompts.
        stop_ids: Token ids that end a text: control tokens, and ids without a token.
    """

    engine: Engine
    compiler: PromptCompiler
    data: DataFolder
    stop_ids: tuple[int, ...] = ()

    @cached_property
    def records(self) -> Records:
        """Members and entities of the data, which are read once."""
        return Records.read(self.data.tables_folder)

    def sampling(self, max_tokens: int) -> Sampling:
        """Return the settings of a text that takes the likeliest token each time."""
        return Sampling(max_tokens=max_tokens, temperature=0.0, stop_ids=self.stop_ids)


def mean_figure(numerator: Sequence[float], denominator: Sequence[float] | None = None, *, seed: int = 0) -> Figure:
    """Return a mean over prompts with its interval, from a bootstrap over prompts.

    Args:
        numerator: A number for each prompt.
        denominator: Its weight, so that the figure is the ratio of the sums; None: 1.
        seed: Of the bootstrap.
    """
    if not numerator:
        return Figure(None)
    weights = np.ones(len(numerator)) if denominator is None else np.array(denominator, np.float64)
    bootstrap = Bootstrap(len(numerator), replicates=REPLICATES, seed=seed)
    return bootstrap.replicate(Ratio(np.array(numerator, np.float64), weights)).figure(LEVEL)


async def gather_in_order(call: Callable[[T], Awaitable[R]], values: Sequence[T], *, in_flight: int) -> list[R]:
    """Call an engine for each value, at most `in_flight` at a time, and return the results in their order."""
    free = asyncio.Semaphore(in_flight)

    async def limited(value: T) -> R:
        async with free:
            return await call(value)

    return list(await asyncio.gather(*(limited(value) for value in values)))

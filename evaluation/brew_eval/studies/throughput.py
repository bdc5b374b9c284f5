"""Throughput of scoring by context length. All prompts differ, so a prefix cache does not help."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Annotated

import numpy as np

from brew_data.packed_bins.packed_documents import read_bin
from brew_data.packed_bins.plan import BinsPlan
from brew_eval.intervals import Figure
from brew_eval.studies.probe import ProbedModel, gather_in_order
from brew_eval.studies.study_table import StudyPoint
from brew_platform.errors import ConfigError, UserError
from brew_platform.settings import NonNegativeInt, PositiveInt, Range, Settings

__all__ = ["ThroughputConfig", "measure_throughput"]


@dataclass(frozen=True, kw_only=True)
class ThroughputConfig(Settings):
    """Settings of a throughput study."""

    bins: str = "bins"  # folder of the documents whose tokens the prompts consist of, in the data folder
    # Tokens of a prompt
    lengths: list[Annotated[int, Range(ge=2, le=10_000_000)]] = field(default_factory=lambda: [64, 128, 256, 512])
    tokens: PositiveInt = 8_192  # tokens of all prompts of a run together
    repeats: PositiveInt = 3  # runs of each length
    seed: NonNegativeInt = 0  # of the prompts
    in_flight: PositiveInt = 16  # prompts in the engine at a time

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lengths:
            raise ConfigError("lengths of the throughput study is empty. List at least one number of tokens.")


async def measure_throughput(model: ProbedModel, config: ThroughputConfig, *, context: int) -> list[StudyPoint]:
    """Compute the next token of prompts of several lengths.

    Args:
        model: The model.
        config: The study.
        context: Tokens that the model reads.

    Returns:
        The figures `tokens per second` and `prompts per second` by length (x): the median of the runs, with the slowest
        and the fastest run as bounds.

    Raises:
        UserError: The data have no bins, or a length exceeds the context.
    """
    if too_long := [length for length in config.lengths if length >= context]:
        raise UserError(f"lengths has {too_long[0]}, but the model reads {context - 1} tokens. Leave it out.")
    tokens = _tokens(model, config)
    points = []
    for length in config.lengths:
        count = max(config.tokens // length, 1)

        async def compute(prompt: tuple[int, ...]) -> None:
            await model.engine.next_token_logprobs(prompt, prompt[-1:])

        await compute(tuple(next(tokens) for _ in range(length)))  # the first call may compile kernels
        rates = []
        for _ in range(config.repeats):
            prompts = [tuple(next(tokens) for _ in range(length)) for _ in range(count)]
            start = time.perf_counter()
            await gather_in_order(compute, prompts, in_flight=config.in_flight)
            rates.append(count / (time.perf_counter() - start))
        for figure, factor in (("prompts per second", 1), ("tokens per second", length)):
            points.append(
                StudyPoint(
                    figure=figure,
                    series="scoring",
                    point=f"{length} tokens",
                    x=float(length),
                    value=Figure(median(rates) * factor, min(rates) * factor, max(rates) * factor),
                    rows=count * config.repeats,
                )
            )
    return points


def _tokens(model: ProbedModel, config: ThroughputConfig) -> Iterator[int]:
    """Yield tokens of the documents from a place that is drawn, again and again in another order."""
    folder = model.data.folder / config.bins
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist, so there are no tokens for prompts. Set throughput.bins.")
    plan = BinsPlan.load(folder)
    random = np.random.default_rng(config.seed)
    while True:
        for bin_id in random.permutation(plan.n_bins).tolist():
            ids = np.concatenate([document.ids for document in read_bin(folder, plan, bin_id)])
            yield from np.roll(ids, int(random.integers(len(ids)))).tolist()

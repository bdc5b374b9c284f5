"""Needle in a haystack: does the model use one decisive item at any depth of a long history?

A prompt asks about an entity. Its history consists of interactions with other entities, and of one with the same
entity, the needle, at a depth between 0 (oldest) and 1 (newest). Each prompt is scored twice: with a positive and with
a negative answer of the needle. It is correct if the positive needle gives the higher score; chance is .5. The model's
prior for the entity cancels, because both prompts differ in the needle's answer only.

Source: Kamradt 2023, "Needle In A Haystack"; 360Brew, arXiv 2501.16450, for the layout of the prompt.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Annotated, Any

from brew_data.prompts.entity import Entity, PastInteraction
from brew_data.prompts.tasks import TaskSpec
from brew_eval.studies.probe import ProbedModel, gather_in_order, mean_figure
from brew_eval.studies.study_table import StudyPoint
from brew_platform.errors import ConfigError, UserError
from brew_platform.settings import NonNegativeInt, PositiveFloat, PositiveInt, Range, Settings, Share
from brew_serve.engines.rope_scaling import RopeScaling, rope_overrides
from brew_serve.ranking.scoring import Scorer

__all__ = ["SUMMARY", "NeedleConfig", "NeedlePair", "measure_needles", "needle_pairs", "rope_variants"]

Ids = tuple[int, ...]
SUMMARY = "all cells"  # series of the mean


@dataclass(frozen=True, kw_only=True)
class NeedleConfig(Settings):
    """Settings of a needle study."""

    task: str = ""  # whose prompts are used; "": the first one of the suite
    # Tokens of a prompt; the history is filled up to them
    lengths: list[Annotated[int, Range(ge=16, le=10_000_000)]] = field(default_factory=lambda: [128, 256, 512])
    # Places of the needle, from 0 (oldest) to 1 (newest)
    depths: list[Share] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    prompts: PositiveInt = 20  # pairs of prompts of each cell
    # Values of `rope.alpha` to compare; 1 is without scaling
    alphas: list[Annotated[float, Range(ge=1, le=1_000)]] = field(default_factory=lambda: [1.0])
    # Values of `rope.original_length` to search; empty: the context of the model
    original_lengths: list[PositiveInt] = field(default_factory=list)
    # Values of `rope.theta` to search; empty: the base of the model
    thetas: list[PositiveFloat] = field(default_factory=list)
    extrapolate: bool = False  # also read longer prompts with the base of training, which shows what scaling changes
    seed: NonNegativeInt = 0  # of the prompts
    in_flight: PositiveInt = 16  # prompts in the engine at a time

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lengths", "depths", "alphas"):
            if not getattr(self, name):
                raise ConfigError(f"{name} of the needle study is empty. List at least one value.")


@dataclass(frozen=True, kw_only=True)
class NeedlePair:
    """Two prompts that differ in the needle's answer.

    Args:
        positive: Token ids before the question, with a positive needle.
        negative: The same with a negative needle.
        question: Token ids of the question about the needle's entity.
        needle: Index of the first token of the needle.
    """

    positive: Ids
    negative: Ids
    question: Ids
    needle: int


def rope_variants(config: NeedleConfig, model: Mapping[str, Any]) -> dict[str, RopeScaling | None]:
    """Return the settings of the rotary embedding to compare, by name.

    Args:
        config: The study.
        model: Content of the model's config.json.

    Raises:
        UserError: The model's rotary embedding cannot be scaled.
    """
    found: dict[str, RopeScaling | None] = {}
    lengths: Sequence[int | None] = config.original_lengths or [None]
    thetas: Sequence[float | None] = config.thetas or [None]
    for alpha, length, theta in product(config.alphas, lengths, thetas):
        if alpha == 1 and length is None and theta is None:
            found["no scaling"] = None
            continue
        names = {"alpha": alpha, "original length": length, "base": theta}
        name = ", ".join(f"{key} {value:g}" for key, value in names.items() if value is not None)
        found[name] = RopeScaling(alpha=alpha, original_length=length, theta=theta)
    if config.extrapolate:
        base = rope_overrides(model, RopeScaling(alpha=1.0))["rope_parameters"]["rope_theta"]
        alpha = max(config.alphas)
        # The scaled base is proportional to the base, so that this one is scaled to the base of training.
        factor = rope_overrides(model, RopeScaling(alpha=alpha))["rope_parameters"]["rope_theta"] / base
        found["base of training"] = RopeScaling(alpha=alpha, theta=base / factor)
    return found


def needle_pairs(model: ProbedModel, config: NeedleConfig, length: int, depth: float) -> Iterator[NeedlePair]:
    """Yield pairs of prompts without end; the same settings give the same pairs.

    Args:
        model: Its compiler and data are used.
        config: The study.
        length: The maximum number of tokens of a prompt with its answer.
        depth: Place of the needle.

    Raises:
        UserError: The task is unknown, the data have fewer than two entities, or the prompt has no tokens for history.
    """
    compiler = model.compiler
    task = _task(model, config)
    surface = compiler.suite.surface(task.surface)
    records = model.records
    entities = [entity for entity in records.entities.values() if entity.entity_type == surface.entity_type]
    profiles = list(records.profiles.values())
    if len(entities) < 2 or not profiles:
        raise UserError(
            f"{model.data.folder} has {len(entities)} entities of the type {surface.entity_type}, but a needle needs "
            f"others around it. Use other data."
        )
    good, bad = _answers(model, task)
    actions = [action.name for action in surface.actions]
    draw = random.Random(f"{config.seed} {length} {depth}")
    while True:
        profile, entity = draw.choice(profiles), draw.choice(entities)
        head, _ = compiler.head(task, profile)
        question, _ = compiler.question(task, profile, entity)

        def turn(about: Entity, action: str, values: Mapping[str, str] = profile) -> Ids:
            past = PastInteraction(entity=about, surface=surface.name, action=action, timestamp=0)
            compiled = compiler.turn(values, past)
            return compiled.question + compiled.answer

        needles = turn(entity, good), turn(entity, bad)
        answer = max(len(ids) for ids in compiler.labels(task).values())
        left = length - len(head) - len(question) - answer - max(map(len, needles))
        others: list[Ids] = []
        while left > 0:
            about = draw.choice(entities)
            if about.values == entity.values:
                continue
            other = turn(about, draw.choice(actions))
            left -= len(other)
            if left >= 0:
                others.append(other)
        if not others:
            raise UserError(
                f"a prompt of {length} tokens has no tokens for a history beside the needle. Set longer `lengths`."
            )
        place = round(depth * len(others))
        before, after = sum(others[:place], head), sum(others[place:], ())
        positive, negative = (before + needle + after for needle in needles)
        yield NeedlePair(positive=positive, negative=negative, question=question, needle=len(before))


async def measure_needles(model: ProbedModel, config: NeedleConfig, variant: str, *, context: int) -> list[StudyPoint]:
    """Score the needles of all lengths and depths.

    Args:
        model: The model, loaded with one of `rope_variants`.
        config: The study.
        variant: Name of the variant, which becomes the series.
        context: Tokens that the model reads; longer lengths are left out.

    Returns:
        The figure `found`, the share of correct pairs, for each length (x) and depth (y); and its mean over the
        cells of the variant.
    """
    task = _task(model, config)
    scorer = Scorer(model.engine, model.compiler)
    points, everything = [], list[float]()
    for length in (length for length in config.lengths if length < context):
        for depth in config.depths:
            pairs = list(islice(needle_pairs(model, config, length, depth), config.prompts))

            async def is_found(pair: NeedlePair) -> float:
                scores = [
                    (await scorer.score_prompt(task, prefix, pair.question)).score
                    for prefix in (pair.positive, pair.negative)
                ]
                return 1.0 if scores[0] > scores[1] else 0.5 if scores[0] == scores[1] else 0.0

            correct = await gather_in_order(is_found, pairs, in_flight=config.in_flight)
            everything += correct
            points.append(
                StudyPoint(
                    figure="found",
                    series=variant,
                    point=f"{length} tokens, depth {depth:g}",
                    x=float(length),
                    y=depth,
                    value=mean_figure(correct),
                    rows=len(correct),
                )
            )
    mean = StudyPoint(
        figure="found, mean over cells",
        series=SUMMARY,
        point=variant,
        value=mean_figure(everything),
        rows=len(everything),
    )
    return [*points, mean]


def _task(model: ProbedModel, config: NeedleConfig) -> TaskSpec:
    suite = model.compiler.suite
    return suite.task(config.task) if config.task else suite.tasks[0]


def _answers(model: ProbedModel, task: TaskSpec) -> tuple[str, str]:
    """Return a positive and a negative action of the task's surface: the last and the first as the suite lists them."""
    surface = model.compiler.suite.surface(task.surface)
    positive: Sequence[str] = model.compiler.suite.positive_actions(task)
    return positive[-1], next(action.name for action in surface.actions if action.name not in positive)

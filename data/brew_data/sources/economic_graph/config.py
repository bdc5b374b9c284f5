"""Settings and calendar of the economic graph; docs/economic_graph.md gives the source of each number."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import numpy as np

from brew_platform.errors import ConfigError
from brew_platform.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, Range, Settings, Share

__all__ = ["DAYS_PER_MONTH", "START", "EconomicGraphConfig", "random_stream"]

START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS_PER_MONTH = 30  # in every month, so that months are comparable

# Each part of the graph draws from streams of its own, so that a change of one part leaves the others unchanged.
_STREAMS = (
    "members", "companies", "network", "suggestions", "entities", "trends", "calibration", "interactions",
    "member_texts", "entity_texts",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EconomicGraphConfig(Settings):
    """Size and realism of the graph. "Our choice" marks values without a source; docs/economic_graph.md explains each.

    Strengths are standard deviations in logits of the deepest action of a surface (`behaviour.py`).

    Raises:
        ConfigError: A value is out of range. The message names field, value and range.
    """

    members: Annotated[int, Range(ge=20)] = 1_200  # our choice
    # Of 30 days; the last is the benchmark, the one before it is the gap.
    months: Annotated[int, Range(ge=3, le=1_200)] = 6
    interactions_per_member: PositiveFloat = 130.0  # of a member active in all months; ML-100K has 106
    entity_density: PositiveFloat = 1.0  # scales the number of entities per member (`entities.KINDS`)
    seed: NonNegativeInt = 0  # same config, same tables
    text_scale: PositiveFloat = 1.0  # scales the number of sentences of a text

    activity_sigma: NonNegativeFloat = 0.9  # sd of log activity; log-normal as in Hogg and Szabo 2009; ML-100K: .88
    cold_start_share: Share = 0.1  # of members, joining in the last month; our choice (ML-100K: 192 of 301)
    opted_out_share: Share = 0.02  # of members; our choice
    # Of profiles and free texts, with planted personal data; as many have numbers that are not personal data.
    contacts_share: Annotated[float, Range(ge=0, le=0.5)] = 0.02
    season_strength: Share = 0.3  # amplitude of a surface's yearly season; our choice
    drift_share: Share = 0.3  # of members, one of whose interests changes during the log; our choice
    noisy_click_share: Share = 0.05  # of impressions in feeds, whose action does not depend on anything; our choice

    connections_per_member: PositiveFloat = 12.0  # mean of a log-normal mixture; our choice, small for short profiles
    follows_per_member: PositiveFloat = 2.0  # our choice
    # P(shown x times) ~ x^-a; typically 2-3 (Clauset et al. 2009); ML-100K tail: 2.7.
    popularity_exponent: Annotated[float, Range(gt=1)] = 2.5
    exposure_correlation: Share = 0.36  # of an entity's exposure with its quality; ML-100K: .36
    related_share: Share = 0.25  # of what is shown, retrieved by the profile's industry; our choice
    interest_share: Share = 0.4  # of what is shown, retrieved by what the member likes or dislikes; our choice
    network_share: Share = 0.1  # of what is shown, written by someone whom the member knows or follows; our choice
    mention_share: Share = 0.3  # of members, whose profile mentions one of their interests; our choice

    match_strength: NonNegativeFloat = 0.7  # what profile and entity have in common; our choice
    interest_strength: NonNegativeFloat = 0.8  # liked and disliked topics and industries; our choice
    taste_strength: NonNegativeFloat = 0.4  # liked and disliked tones and employers; our choice
    quality_strength: NonNegativeFloat = 0.8  # what the text and its numbers show of an entity's quality; our choice
    hidden_strength: NonNegativeFloat = 0.15  # quality that no text shows, and the trend of the topic; our choice
    social_strength: NonNegativeFloat = 0.3  # the author is a connection or followed; our choice
    member_strength: NonNegativeFloat = 1.0  # between members, on all surfaces; ML-100K, between users: .74
    habit_strength: NonNegativeFloat = 0.3  # between members, for each action; our choice
    leaning_strength: NonNegativeFloat = 0.5  # of an action towards one tone or employer; our choice
    trend_sd: NonNegativeFloat = 0.3  # of a topic's trend per month, in units of hidden quality; our choice

    def __post_init__(self) -> None:
        super().__post_init__()
        if (total := self.related_share + self.interest_share + self.network_share) > 1:
            raise ConfigError(
                f"related_share, interest_share and network_share are together {total:g}, but are at most 1. Lower one."
            )

    @property
    def days(self) -> int:
        """Length of the log, in days."""
        return self.months * DAYS_PER_MONTH


def random_stream(config: EconomicGraphConfig, name: str, *keys: int) -> np.random.Generator:
    """Return the generator of one part of the graph.

    Args:
        config: Its seed.
        name: The part.
        keys: Numbers of the month or the block of rows, so that it does not matter what was drawn before.
    """
    key = (_STREAMS.index(name), *keys)
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=key))

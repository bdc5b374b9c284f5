"""Settings, surfaces and calendar of the synthetic graph; docs/synthetic.md gives the source of each number."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple

from brew_platform.errors import ConfigError
from brew_platform.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Range, Settings, Share

__all__ = ["DAYS_PER_MONTH", "START", "SURFACES", "Surface", "SyntheticConfig", "benchmark_start"]

START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS_PER_MONTH = 30  # in every month, so that months are comparable
Rate = Annotated[float, Range(gt=0, lt=1)]


class Surface(NamedTuple):
    """A surface of the graph: it shows entities of one type, and a member takes one of two actions."""

    name: str
    task: str
    entity_type: str
    positive: str
    negative: str
    share: float  # of all interactions; our choice
    rate: str  # the field of SyntheticConfig with its share of positive actions


SURFACES = (
    Surface("jobs", "job_apply", "job", "apply", "skip", 0.4, "apply_rate"),
    Surface("feed", "post_like", "post", "like", "skip", 0.35, "like_rate"),
    Surface("notifications", "post_open", "post", "open", "dismiss", 0.25, "open_rate"),
)


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(Settings):
    """Size and realism of the graph. "Our choice" marks values without a source; docs/synthetic.md explains each field.

    Raises:
        ConfigError: A value is out of range. The message names field, value and range.
    """

    members: PositiveInt = 1_200  # few members with many turns each, as in MovieLens-100K (943 members, 106 turns each)
    jobs: PositiveInt = 1_200  # job entities over all months; about 300 alive at a time; our choice
    posts: PositiveInt = 2_000  # post entities over all months; our choice
    # Of 30 days; the last is the benchmark, strictly later than all training.
    months: Annotated[int, Range(ge=2, le=1_200)] = 6
    # Of a member active in all months; 100 without repeats (ML-100K: 106).
    interactions_per_member: PositiveFloat = 168.0
    seed: NonNegativeInt = 0  # same config, same tables

    activity_sigma: NonNegativeFloat = 0.9  # sd of log activity; log-normal as in Hogg and Szabo 2009; ML-100K: .88
    cold_start_share: Share = 0.1  # of members, joining in the last month; our choice (ML-100K: 192 of 301)
    opted_out_share: Share = 0.02  # of members; our choice
    pii_share: Share = 0.005  # of profiles and of posts, with an invented address or number in a text; our choice

    job_lifetime_days: PositiveFloat = 75.0  # median; log-normal with sd .5 of the log; our choice
    # As above; long for a feed, so that past popularity is informative; our choice.
    post_lifetime_days: PositiveFloat = 75.0
    # P(shown x times) ~ x^-a; typically 2-3 (Clauset et al. 2009); ML-100K tail: 2.7.
    popularity_exponent: Annotated[float, Range(gt=1)] = 2.5
    related_share: Share = 0.3  # of what is shown, retrieved by the profile's industry; our choice
    interest_share: Share = 0.45  # of what is shown, retrieved by what the member reacts to strongly; our choice

    apply_rate: Rate = 0.25  # positive share of a log with down-sampled negatives (He et al. 2014, section 6.3)
    like_rate: Rate = 0.35  # as above
    open_rate: Rate = 0.34  # notification opening rate 4.92% (Saikia et al. 2017) with one negative in ten kept

    quality_sd: NonNegativeFloat = 0.85  # logits, between entities; our choice near ML-100K's, between movies: .81
    visible_quality: Share = 0.9  # share of that variance that the text shows; our choice
    exposure_correlation: Share = 0.36  # of an entity's exposure with its quality; ML-100K: .36
    # Of members' log-odds, on all surfaces; our choice above ML-100K's, between users: .74.
    member_sd: NonNegativeFloat = 0.86
    match_strength: NonNegativeFloat = 1.25  # scale of the explicit matches of profile and entity; our choice
    interest_strength: NonNegativeFloat = 0.8  # logits of a strong like or dislike; our choice
    interest_drift: NonNegativeFloat = 0.05  # logits per month, random walk of each interest; our choice
    # Logits per month, random walk of each industry's and topic's popularity; our choice.
    trend_sd: NonNegativeFloat = 0.1
    noise_sd: NonNegativeFloat = 0.2  # logits per interaction, known to the oracle only; our choice

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.related_share + self.interest_share > 1:
            raise ConfigError(
                f"interest_share is {self.interest_share} and related_share is {self.related_share}, but together they "
                f"are at most 1. Lower one of them."
            )

    @property
    def days(self) -> int:
        """Length of the log, in days."""
        return self.months * DAYS_PER_MONTH


def benchmark_start(config: SyntheticConfig) -> datetime:
    """Return the start of the last month; training uses only strictly earlier interactions."""
    return START + timedelta(days=config.days - DAYS_PER_MONTH)

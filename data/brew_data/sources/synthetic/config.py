"""Settings, surfaces and calendar of the synthetic graph; docs/synthetic.md gives the source of each number."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from brew_platform.errors import ConfigError

__all__ = ["DAYS_PER_MONTH", "START", "SURFACES", "Surface", "SyntheticConfig", "benchmark_start"]

START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS_PER_MONTH = 30  # in every month, so that months are comparable


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
class SyntheticConfig:
    """Size and realism of the graph. "Our choice" marks values without a source; docs/synthetic.md explains each field.

    Raises:
        ConfigError: A value is out of range. The message names field, value and range.
    """

    members: int = 1_200  # few members with many turns each, as in MovieLens-100K (943 members, 106 turns each)
    jobs: int = 1_200  # job entities over all months; about 300 alive at a time; our choice
    posts: int = 2_000  # post entities over all months; our choice
    months: int = 6  # of 30 days; the last is the benchmark, strictly later than all training
    interactions_per_member: float = 168.0  # of a member active in all months; 100 without repeats (ML-100K: 106)
    seed: int = 0  # same config, same tables

    activity_sigma: float = 0.9  # sd of log activity; log-normal as in Hogg and Szabo 2009; ML-100K: .88
    cold_start_share: float = 0.1  # of members, joining in the last month; our choice (ML-100K: 192 of 301)
    opted_out_share: float = 0.02  # of members; our choice
    pii_share: float = 0.005  # of profiles and of posts, with an invented address or number in a text; our choice

    job_lifetime_days: float = 75.0  # median; log-normal with sd .5 of the log; our choice
    post_lifetime_days: float = 75.0  # as above; long for a feed, so that past popularity is informative; our choice
    popularity_exponent: float = 2.5  # P(shown x times) ~ x^-a; typically 2-3 (Clauset et al. 2009); ML-100K tail: 2.7
    related_share: float = 0.3  # of what is shown, retrieved by the profile's industry; our choice
    interest_share: float = 0.45  # of what is shown, retrieved by what the member reacts to strongly; our choice

    apply_rate: float = 0.25  # positive share of a log with down-sampled negatives (He et al. 2014, section 6.3)
    like_rate: float = 0.35  # as above
    open_rate: float = 0.34  # notification opening rate 4.92% (Saikia et al. 2017) with one negative in ten kept

    quality_sd: float = 0.85  # logits, between entities; our choice near ML-100K's, between movies: .81
    visible_quality: float = 0.9  # share of that variance that the text shows; our choice
    exposure_correlation: float = 0.36  # of an entity's exposure with its quality; ML-100K: .36
    member_sd: float = 0.86  # of members' log-odds, on all surfaces; our choice above ML-100K's, between users: .74
    match_strength: float = 1.25  # scale of the explicit matches of profile and entity; our choice
    interest_strength: float = 0.8  # logits of a strong like or dislike; our choice
    interest_drift: float = 0.05  # logits per month, random walk of each interest; our choice
    trend_sd: float = 0.1  # logits per month, random walk of each industry's and topic's popularity; our choice
    noise_sd: float = 0.2  # logits per interaction, known to the oracle only; our choice

    def __post_init__(self) -> None:
        for name in ("members", "jobs", "posts", "interactions_per_member", "job_lifetime_days", "post_lifetime_days"):
            self._require(name, getattr(self, name) > 0, "above 0")
        self._require("months", self.months >= 2, "2 or more, since the last one is the benchmark")
        self._require("seed", self.seed >= 0, "0 or more")
        self._require("popularity_exponent", self.popularity_exponent > 1, "above 1")
        for name in ("cold_start_share", "opted_out_share", "pii_share", "related_share", "interest_share"):
            self._require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        self._require("interest_share", self.related_share + self.interest_share <= 1, "at most 1 - related_share")
        for name in ("visible_quality", "exposure_correlation"):
            self._require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in ("apply_rate", "like_rate", "open_rate"):
            self._require(name, 0 < getattr(self, name) < 1, "strictly between 0 and 1")
        for name in (
            "activity_sigma", "quality_sd", "member_sd", "match_strength", "interest_strength", "interest_drift",
            "trend_sd", "noise_sd",
        ):  # fmt: skip
            self._require(name, getattr(self, name) >= 0, "0 or more")

    def _require(self, name: str, holds: bool, condition: str) -> None:
        if not holds:
            value = getattr(self, name)
            raise ConfigError(f"source_config.{name} is {value}, but it must be {condition}. Change {name}.")

    @property
    def days(self) -> int:
        """Length of the log, in days."""
        return self.months * DAYS_PER_MONTH


def benchmark_start(config: SyntheticConfig) -> datetime:
    """Return the start of the last month; training uses only strictly earlier interactions."""
    return START + timedelta(days=config.days - DAYS_PER_MONTH)

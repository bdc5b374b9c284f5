"""A small synthetic economic graph whose generator knows the true probability of every action.

Owns: `SyntheticConfig` and `generate`. Does not own: the words (`brew_data.synthetic_vocabulary`), how much of the
truth can be reached (`brew_data.synthetic_reach`), the tables' contract (`brew_data.tables`), or the removal of
opted-out members and personal data, both of which it contains on purpose.

docs/synthetic.md has the formula and the source of each number. Shape suffixes: N interactions, M members, E entities
of one type, S skills, V values of an attribute, T months, X any rows.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from brew_data import synthetic_vocabulary as words
from brew_data.tables import TIMESTAMP, Tables
from brew_platform.errors import ConfigError

__all__ = ["FIELDS", "START", "SURFACES", "Surface", "SyntheticConfig", "benchmark_start", "generate"]

START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS_PER_MONTH = 30  # every month is as long, so that months compare

Array = np.ndarray[Any, Any]


class Surface(NamedTuple):
    """Where entities of one type are shown, and the two actions that a member can take there."""

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
_TYPES = ("job", "post")
FIELDS = (
    "title", "seniority", "industry", "company", "location", "skills", "applicants",
    "topic", "format", "author", "followers", "text",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Size and realism of the graph. "Our choice" marks what has no source; docs/synthetic.md says more on each.

    Raises:
        ConfigError: a value lies outside its range; the message names field, value and range.
    """

    members: int = 1_200  # people; many turns each rather than many people, as in MovieLens-100K (943, 106 turns each)
    jobs: int = 1_200  # job entities over all months; about 300 alive at a time; our choice
    posts: int = 2_000  # post entities over all months; our choice
    months: int = 6  # of 30 days; the last is the benchmark, strictly later than all training
    interactions_per_member: float = 168.0  # mean, if active in all months, before repeats go; 100 stay; ML-100K: 106
    seed: int = 0  # same config, same tables

    activity_sigma: float = 0.9  # sd of log activity; log-normal as in Hogg and Szabo 2009; ML-100K: .88
    cold_start_share: float = 0.1  # of members, joining in the last month; our choice (ML-100K: 192 of 301)
    opted_out_share: float = 0.02  # of members; our choice
    pii_share: float = 0.005  # of profiles and of posts, with an invented address or number in a text; our choice

    job_lifetime_days: float = 75.0  # median; log-normal with sd .5 of the log; our choice
    post_lifetime_days: float = 75.0  # as above; long for a feed, so that past popularity says something; our choice
    popularity_exponent: float = 2.5  # P(shown x times) ~ x^-a; typically 2-3 (Clauset et al. 2009); ML-100K tail: 2.7
    related_share: float = 0.3  # of what is shown, retrieved by the profile's industry; our choice
    interest_share: float = 0.45  # of what is shown, retrieved by what the member reacts to strongly; our choice

    apply_rate: float = 0.25  # positive share of a log with down-sampled negatives (He et al. 2014, section 6.3)
    like_rate: float = 0.35  # as above
    open_rate: float = 0.34  # notification opening rate 4.92% (Saikia et al. 2017) with one negative in ten kept

    quality_sd: float = 0.85  # logits, between entities; ML-100K, between movies: .85
    visible_quality: float = 0.9  # share of that variance that the text shows; our choice
    exposure_correlation: float = 0.36  # of an entity's exposure with its quality; ML-100K: .36
    member_sd: float = 0.86  # of members' log-odds, on all surfaces; measured between users on MovieLens-100K
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

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ConfigError(f"synthetic.{name} is {getattr(self, name)}, but it must be {wanted}. Change {name}.")

    @property
    def days(self) -> int:
        """Length of the log."""
        return self.months * DAYS_PER_MONTH


def benchmark_start(config: SyntheticConfig) -> datetime:
    """Start of the last month: training uses only what is strictly earlier."""
    return START + timedelta(days=config.days - DAYS_PER_MONTH)


@dataclass(frozen=True, kw_only=True)
class _Members:
    industry_M: Array
    role_M: Array
    seniority_M: Array
    city_M: Array
    skills_MS: Array  # bool, which of all 30 skills
    join_M: Array  # day
    rate_M: Array  # interactions per day
    willing_M: Array  # logits
    strong: dict[str, Array]  # by entity type, (M, 2): the group that the member likes, then the one they dislike
    interest: dict[str, Array]  # by entity type, (M, T, V): logits of each group in each month
    taste_MV: Array  # logits of each format of posts


@dataclass(frozen=True, kw_only=True)
class _Entities:
    """Jobs or posts. What only one of the two has is drawn for both, and left out of the other's text."""

    group_E: Array  # what interest is about: a job's industry, a post's topic
    format_E: Array
    source_E: Array  # who stands behind it: a company, an author's role
    bucket_E: Array  # 0..3: popularity that the text shows
    industry_E: Array  # a job's own, a post's author's
    role_E: Array
    seniority_E: Array
    city_E: Array
    skills_ES: Array  # bool, which of all 30 skills
    created_E: Array  # day; the oldest were there before the log starts
    expires_E: Array  # day
    weight_E: Array  # exposure, up to a factor
    quality_E: Array  # logits
    trend_TV: Array  # logits of each group in each month


def generate(config: SyntheticConfig) -> Tables:
    """Draws the graph; about 1 s for the default size.

    Returns:
        Tables: members, entities (jobs, then posts), interactions in order of time, and the oracle's probability of
        each interaction's positive action. A member sees an entity once per surface.
    """
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(config.seed).spawn(7)]
    members = _draw_members(config, streams[0])
    drawn = {kind: _draw_entities(config, streams[1 + i], kind) for i, kind in enumerate(_TYPES)}
    member_N, day_N, surface_N = _draw_visits(config, streams[3], members)
    type_N = np.array([_TYPES.index(surface.entity_type) for surface in SURFACES])[surface_N]
    entity_N, logit_N = np.zeros(len(member_N), dtype=np.int64), np.zeros(len(member_N))
    for i, kind in enumerate(_TYPES):
        rows = np.flatnonzero(type_N == i)
        shown = _draw_shown(config, streams[4], members, drawn[kind], kind, member_N[rows], day_N[rows])
        entity_N[rows] = shown
        logit_N[rows] = _affinity(config, members, drawn[kind], kind, member_N[rows], shown, _month(day_N[rows]))
    seen = (member_N * len(SURFACES) + surface_N) * max(config.jobs, config.posts) + entity_N
    kept = np.sort(np.unique(seen, return_index=True)[1])
    member_N, day_N, surface_N, entity_N, type_N = (x[kept] for x in (member_N, day_N, surface_N, entity_N, type_N))
    logit_N = logit_N[kept] + config.noise_sd * streams[5].standard_normal(len(kept))
    for i, surface in enumerate(SURFACES):
        rows = np.flatnonzero(surface_N == i)
        logit_N[rows] += _intercept(logit_N[rows], getattr(config, surface.rate))
    probability_N = _sigmoid(logit_N)
    positive_N = streams[6].random(len(kept)) < probability_N
    actions = np.array([[surface.negative, surface.positive] for surface in SURFACES])
    entity_ids = np.concatenate([_ids("job", config.jobs), _ids("post", config.posts)])
    interaction_N = pa.array(np.arange(len(kept)))
    interactions = {
        "interaction_id": interaction_N,
        "member_id": _ids("member", config.members)[member_N],
        "entity_id": entity_ids[entity_N + np.where(type_N == 0, 0, config.jobs)],
        "surface": np.array([surface.name for surface in SURFACES])[surface_N],
        "action": actions[surface_N, positive_N.astype(np.int64)],
        "timestamp": _timestamps(day_N),
    }
    text_rng = np.random.default_rng([config.seed, 1])  # words that carry no signal
    return Tables(
        members=_members_table(config, text_rng, members),
        entities=pa.concat_tables([_entities_table(config, text_rng, drawn[kind], kind) for kind in _TYPES]),
        interactions=pa.table(interactions),
        oracle=pa.table({"interaction_id": interaction_N, "probability": probability_N}),
    )


def _draw_members(config: SyntheticConfig, rng: np.random.Generator) -> _Members:
    M, T = config.members, config.months
    industry_M = rng.integers(len(words.INDUSTRIES), size=M)
    newcomer_M = rng.permutation(M) < round(config.cold_start_share * M)
    early_M = rng.random(M) < 0.6  # members from before the log starts; the others join evenly until the last month
    join_M = np.where(early_M, 0.0, rng.random(M) * (config.days - DAYS_PER_MONTH))
    join_M = np.where(newcomer_M, config.days - DAYS_PER_MONTH * rng.random(M), join_M)
    activity_M = np.exp(config.activity_sigma * rng.standard_normal(M) - config.activity_sigma**2 / 2)  # mean 1
    strong, interest = {}, {}
    for kind, groups in [("job", len(words.INDUSTRIES)), ("post", len(words.TOPICS))]:
        strong[kind] = np.argsort(rng.random((M, groups)), axis=1)[:, :2]
        base = np.zeros((M, groups))
        signs = np.array([1.0, -1.0]) * (1 + 0.2 * rng.standard_normal((M, 2)))
        np.put_along_axis(base, strong[kind], config.interest_strength * signs, axis=1)
        walk = np.cumsum(config.interest_drift * rng.standard_normal((M, T, groups)), axis=1)
        interest[kind] = base[:, None, :] + walk
    order_MV = np.argsort(rng.random((M, len(words.FORMATS))), axis=1)
    best_and_worst_MV = 1.0 * (order_MV == 0) - 1.0 * (order_MV == len(words.FORMATS) - 1)
    return _Members(
        industry_M=industry_M,
        role_M=rng.integers(3, size=M),
        seniority_M=rng.choice(4, size=M, p=[0.3, 0.35, 0.25, 0.1]),
        city_M=rng.integers(len(words.CITIES), size=M),
        skills_MS=_draw_skills(rng, industry_M, own=3),
        join_M=join_M,
        rate_M=config.interactions_per_member * activity_M / config.days,
        willing_M=config.member_sd * rng.standard_normal(M),
        strong=strong,
        interest=interest,
        taste_MV=0.6 * config.interest_strength * best_and_worst_MV,
    )


def _draw_skills(rng: np.random.Generator, industry_X: Array, *, own: int) -> Array:
    """Which of all skills: `own` of the five of each row's industry; bool, shape (rows, 30)."""
    order = np.argsort(rng.random((len(industry_X), 5)), axis=1)[:, :own]
    skills = np.zeros((len(industry_X), 5 * len(words.INDUSTRIES)), dtype=bool)
    np.put_along_axis(skills, industry_X[:, None] * 5 + order, True, axis=1)
    return skills


def _draw_entities(config: SyntheticConfig, rng: np.random.Generator, kind: str) -> _Entities:
    is_job = kind == "job"
    E = config.jobs if is_job else config.posts
    sources = len(words.COMPANIES if is_job else words.AUTHORS)
    groups = len(words.INDUSTRIES if is_job else words.TOPICS)
    median = config.job_lifetime_days if is_job else config.post_lifetime_days
    lifetime_E = median * np.exp(0.5 * rng.standard_normal(E))
    created_E = rng.random(E) * (config.days + 2 * median) - 2 * median  # the stock is steady when the log starts
    expires_E = created_E + lifetime_E
    created_E[0], expires_E[0] = -2 * median, config.days + 1  # one that never expires: there is always one to show
    industry_E = rng.integers(len(words.INDUSTRIES), size=E)
    source_E = rng.integers(sources, size=E)
    bucket_E = rng.integers(4, size=E)
    standing = rng.standard_normal(sources)
    standing = (standing - standing.mean()) / standing.std()
    bucket = np.array([-1.34, -0.45, 0.45, 1.34])  # evenly spaced, variance 1
    visible_E = np.sqrt(0.7) * bucket[bucket_E] + np.sqrt(0.3) * standing[source_E]
    shown, hidden = np.sqrt(config.visible_quality), np.sqrt(1 - config.visible_quality)
    quality_E = shown * visible_E + hidden * rng.standard_normal(E)
    rho = config.exposure_correlation
    rank_E = np.argsort(np.argsort(rho * quality_E + np.sqrt(1 - rho**2) * rng.standard_normal(E)))
    weight_E = np.sort((1 - rng.random(E)) ** (-1 / (config.popularity_exponent - 1)))[rank_E]
    return _Entities(
        group_E=industry_E if is_job else rng.integers(groups, size=E),
        format_E=rng.integers(len(words.FORMATS), size=E),
        source_E=source_E,
        bucket_E=bucket_E,
        industry_E=industry_E,
        role_E=rng.integers(3, size=E),
        seniority_E=rng.choice(4, size=E, p=[0.3, 0.35, 0.25, 0.1]),
        city_E=rng.integers(len(words.CITIES), size=E),
        skills_ES=_draw_skills(rng, industry_E, own=2),
        created_E=created_E,
        expires_E=expires_E,
        weight_E=weight_E,
        quality_E=config.quality_sd * quality_E,
        trend_TV=np.cumsum(config.trend_sd * rng.standard_normal((config.months, groups)), axis=0),
    )


def _draw_visits(config: SyntheticConfig, rng: np.random.Generator, members: _Members) -> tuple[Array, Array, Array]:
    """Who looks, when (day, in order) and on which surface, in sessions of four interactions about a minute apart."""
    span_M = config.days - members.join_M
    count_M = rng.poisson(members.rate_M * span_M)
    member_N = np.repeat(np.arange(config.members), count_M)
    place_N = np.arange(len(member_N)) - np.repeat(np.cumsum(count_M) - count_M, count_M)
    first_N = np.arange(len(member_N)) - place_N % 4  # the row that opened the session
    session_N, surface_N = rng.random(len(member_N)), rng.choice(3, len(member_N), p=[s.share for s in SURFACES])
    minutes_N = place_N % 4 + rng.random(len(member_N))
    ten_minutes = 10 / 1440  # the last session ends before the log does
    day_N = members.join_M[member_N] + session_N[first_N] * (span_M[member_N] - ten_minutes) + minutes_N / 1440
    order = np.argsort(day_N, kind="stable")
    return member_N[order], day_N[order], surface_N[first_N][order]


def _draw_shown(
    config: SyntheticConfig,
    rng: np.random.Generator,
    members: _Members,
    entities: _Entities,
    kind: str,
    member_N: Array,
    day_N: Array,
) -> Array:
    """What was shown: by exposure among what is alive; some retrieved by profile, some by past strong reactions."""
    N = len(member_N)
    industry_N, strong_N = members.industry_M[member_N], members.strong[kind][member_N, rng.integers(2, size=N)]
    topics = np.array(words.INDUSTRY_TOPICS)
    topic_N = topics[industry_N, rng.integers(topics.shape[1], size=N)]
    related_N = industry_N if kind == "job" else topic_N
    channel_N = rng.random(N)
    group_N = np.where(channel_N < config.related_share, related_N, strong_N)
    group_N = np.where(channel_N < config.related_share + config.interest_share, group_N, -1)  # -1: any group
    pick_N = rng.random(N)
    shown_N = np.zeros(N, dtype=np.int64)
    ends = np.searchsorted(day_N, np.arange(config.days + 1))
    for day in range(config.days):
        rows = np.arange(ends[day], ends[day + 1])
        alive = np.flatnonzero((entities.created_E <= day) & (entities.expires_E >= day + 1))
        trend = entities.trend_TV[day // DAYS_PER_MONTH, entities.group_E[alive]]
        weight = entities.weight_E[alive] * np.exp(trend)
        for group in np.unique(group_N[rows]):
            asked = rows[group_N[rows] == group]
            share = np.where(entities.group_E[alive] == group, weight, 0.0)
            total = np.cumsum(share if group >= 0 and share.any() else weight)
            shown_N[asked] = alive[np.searchsorted(total, pick_N[asked] * total[-1], side="right")]
    return shown_N


def _affinity(
    config: SyntheticConfig,
    members: _Members,
    entities: _Entities,
    kind: str,
    member_N: Array,
    entity_N: Array,
    month_N: Array,
) -> Array:
    """Logit of the positive action, but for the base rate and the noise: docs/synthetic.md, formula; shape (N,)."""
    group_N, industry_N = entities.group_E[entity_N], members.industry_M[member_N]
    same_industry_N = industry_N == entities.industry_E[entity_N]
    if kind == "job":
        distance_N = np.abs(members.seniority_M[member_N] - entities.seniority_E[entity_N])
        same_city_N = members.city_M[member_N] == entities.city_E[entity_N]
        common_N = (members.skills_MS[member_N] & entities.skills_ES[entity_N]).sum(axis=1)
        match_N = 1.6 * same_industry_N + 0.4 * same_city_N + 0.3 * common_N - 0.3 * distance_N
    else:
        related_N = (np.array(words.INDUSTRY_TOPICS)[industry_N] == group_N[:, None]).any(axis=1)
        match_N = 1.6 * related_N + 0.8 * same_industry_N
    taste_N = members.taste_MV[member_N, entities.format_E[entity_N]] if kind == "post" else 0.0
    return (
        entities.quality_E[entity_N]
        + entities.trend_TV[month_N, group_N]
        + config.match_strength * match_N
        + members.willing_M[member_N]
        + members.interest[kind][member_N, month_N, group_N]
        + taste_N
    )


def _intercept(logit_N: Array, rate: float) -> float:
    """The shift that makes the mean probability equal to `rate`, by bisection."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if logit_N.size and _sigmoid(logit_N + middle).mean() < rate else (low, middle)
    return (low + high) / 2


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _month(day_N: Array) -> Array:
    return (day_N // DAYS_PER_MONTH).astype(np.int64)


def _timestamps(day_N: Array) -> pa.Array:
    start = int(START.timestamp() * 1e6)
    return pa.array(start + (day_N * 86_400e6).astype(np.int64)).cast(TIMESTAMP)


def _members_table(config: SyntheticConfig, rng: np.random.Generator, members: _Members) -> pa.Table:
    roles = np.array(words.ROLES)[members.industry_M, members.role_M]
    profile: dict[str, Any] = {
        "title": words.with_contacts(rng, list(roles), config.pii_share),
        "seniority": np.array(words.SENIORITIES)[members.seniority_M],
        "industry": np.array(words.INDUSTRIES)[members.industry_M],
        "location": np.array(words.CITIES)[members.city_M],
        "skills": words.skill_texts(members.skills_MS),
    }
    locales, chances = zip(*words.LOCALES, strict=True)
    columns = {
        "member_id": _ids("member", config.members),
        "profile": words.struct(profile),
        "locale": rng.choice(locales, size=config.members, p=chances),
        "opted_out": rng.random(config.members) < config.opted_out_share,
    }
    return pa.table(columns)


def _entities_table(config: SyntheticConfig, rng: np.random.Generator, entities: _Entities, kind: str) -> pa.Table:
    E = len(entities.group_E)
    fields: dict[str, Any] = dict.fromkeys(FIELDS)
    fields["industry"] = np.array(words.INDUSTRIES)[entities.industry_E]
    if kind == "job":
        fields["title"] = np.array(words.ROLES)[entities.industry_E, entities.role_E]
        fields["seniority"] = np.array(words.SENIORITIES)[entities.seniority_E]
        fields["company"] = np.array(words.COMPANIES)[entities.source_E]
        fields["location"] = np.array(words.CITIES)[entities.city_E]
        fields["skills"] = words.skill_texts(entities.skills_ES)
        fields["applicants"] = np.array(words.APPLICANTS)[entities.bucket_E]
    else:
        fields["topic"] = np.array(words.TOPICS)[entities.group_E]
        fields["format"] = np.array(words.FORMATS)[entities.format_E]
        fields["author"] = np.array(words.AUTHORS)[entities.source_E]
        fields["followers"] = np.array(words.FOLLOWERS)[entities.bucket_E]
        subjects = np.array(words.TOPIC_WORDS)[entities.group_E, rng.integers(3, size=E)]
        texts = [f"{hook} {subject}" for hook, subject in zip(rng.choice(words.HOOKS, size=E), subjects, strict=True)]
        fields["text"] = words.with_contacts(rng, texts, config.pii_share)
    columns = {
        "entity_id": _ids(kind, E),
        "entity_type": [kind] * E,
        "created_at": _timestamps(entities.created_E),
        "fields": words.struct(fields),
    }
    return pa.table(columns)


def _ids(kind: str, count: int) -> Array:
    return np.array([f"{kind}-{i:06d}" for i in range(count)])

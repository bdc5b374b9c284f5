"""Generates the synthetic economic graph: the entities that each member sees, and the probability of each action.

docs/synthetic.md has the formula. The tables contain opted-out members and personal data on purpose, as input for
privacy filters. Shape suffixes: N interactions, M members, E entities of one type.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from brew_data.schema import TIMESTAMP, Tables
from brew_data.sources.synthetic import vocabulary as words
from brew_data.sources.synthetic.config import DAYS_PER_MONTH, START, SURFACES, SyntheticConfig
from brew_data.sources.synthetic.population import Array, Entities, Members, draw_entities, draw_members

__all__ = ["FIELDS", "generate"]

_TYPES = ("job", "post")
FIELDS = (
    "title", "seniority", "industry", "company", "location", "skills", "applicants",
    "topic", "format", "author", "followers", "text",
)  # fmt: skip


def generate(config: SyntheticConfig) -> Tables:
    """Generate the graph. The default size takes about 1 s.

    Returns:
        Members, entities (jobs, then posts), interactions sorted by time, and the true probability of each
        action of each interaction. A member sees an entity at most once per surface.
    """
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(config.seed).spawn(7)]
    members = draw_members(config, streams[0])
    drawn = {kind: draw_entities(config, streams[1 + i], kind) for i, kind in enumerate(_TYPES)}
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
    oracle = {
        "interaction_id": np.repeat(np.arange(len(kept)), 2),
        "action": actions[surface_N].ravel(),
        "probability": np.stack([1 - probability_N, probability_N], axis=1).ravel(),
    }
    return Tables(
        members=_members_table(config, text_rng, members),
        entities=pa.concat_tables([_entities_table(config, text_rng, drawn[kind], kind) for kind in _TYPES]),
        interactions=pa.table(interactions),
        oracle=pa.table(oracle),
    )


def _draw_visits(config: SyntheticConfig, rng: np.random.Generator, members: Members) -> tuple[Array, Array, Array]:
    """Draw member, day (ascending) and surface of each interaction, in sessions of four, about a minute apart."""
    span_M = config.days - members.join_M
    count_M = rng.poisson(members.rate_M * span_M)
    member_N = np.repeat(np.arange(config.members), count_M)
    place_N = np.arange(len(member_N)) - np.repeat(np.cumsum(count_M) - count_M, count_M)
    first_N = np.arange(len(member_N)) - place_N % 4  # the row that opened the session
    session_N, surface_N = rng.random(len(member_N)), rng.choice(3, len(member_N), p=[s.share for s in SURFACES])
    minutes_N = place_N % 4 + rng.random(len(member_N))
    ten_minutes = 10 / 1440  # days; the last session ends before the log ends
    day_N = members.join_M[member_N] + session_N[first_N] * (span_M[member_N] - ten_minutes) + minutes_N / 1440
    order = np.argsort(day_N, kind="stable")
    return member_N[order], day_N[order], surface_N[first_N][order]


def _draw_shown(
    config: SyntheticConfig,
    rng: np.random.Generator,
    members: Members,
    entities: Entities,
    kind: str,
    member_N: Array,
    day_N: Array,
) -> Array:
    """Draw the entity of each interaction among the live ones: by exposure, by profile, or by strong interests."""
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
            group_rows = rows[group_N[rows] == group]
            share = np.where(entities.group_E[alive] == group, weight, 0.0)
            total = np.cumsum(share if group >= 0 and share.any() else weight)
            shown_N[group_rows] = alive[np.searchsorted(total, pick_N[group_rows] * total[-1], side="right")]
    return shown_N


def _affinity(
    config: SyntheticConfig,
    members: Members,
    entities: Entities,
    kind: str,
    member_N: Array,
    entity_N: Array,
    month_N: Array,
) -> Array:
    """Compute the logit of the positive action without base rate and noise (docs/synthetic.md, formula); shape (N,)."""
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
    """Find the shift that makes the mean probability equal to `rate`, by bisection."""
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


def _members_table(config: SyntheticConfig, rng: np.random.Generator, members: Members) -> pa.Table:
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


def _entities_table(config: SyntheticConfig, rng: np.random.Generator, entities: Entities, kind: str) -> pa.Table:
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

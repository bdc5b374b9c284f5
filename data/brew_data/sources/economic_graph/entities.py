"""Draws the entities of all types, with the facts of their texts, their lifetimes and how often they are shown.

Shape suffixes: E entities, T topics, K skills.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from brew_data.sources.economic_graph.config import DAYS_PER_MONTH, EconomicGraphConfig, random_stream
from brew_data.sources.economic_graph.facts import ENTITY_TYPES, QUALITIES, TONES
from brew_data.sources.economic_graph.group_sampler import Array, GroupSampler
from brew_data.sources.economic_graph.network import SUGGESTIONS
from brew_data.sources.economic_graph.population import (
    INDUSTRY_COUNT,
    TOPIC_COUNT,
    Companies,
    Members,
    draw_cities,
    draw_roles,
    draw_seniorities,
    draw_skills,
    draw_topics,
)

__all__ = ["ENTITY_SKILLS", "KINDS", "Entities", "Kind", "draw_entities", "draw_trends"]

ENTITY_SKILLS = 3  # of a job; a course has fewer in its text
_COUNT_SIGMA = 1.2  # sd of the logarithm of a number in a text; our choice


class Kind(NamedTuple):
    """How many entities of a type there are, and how they live."""

    entity_type: str
    per_member: float  # number of entities; 0: drawn elsewhere (`SUGGESTIONS` people, one company for each company)
    by_topic: bool  # members look for them by topic; False: by industry
    lifetime_days: float  # median; infinite: they stay
    people: float = 0.0  # median of the number that the text shows; 0: it shows none
    author: str | None = None  # "writer": somebody with followers writes it; "employee": somebody of the company


FOREVER = float("inf")
KINDS = (
    Kind("job", 0.6, False, 45.0, people=40.0),
    Kind("search_result", 0.8, False, 45.0, people=40.0),
    Kind("post", 1.2, True, 20.0, people=60.0, author="writer"),
    Kind("notification", 0.8, True, 10.0, author="writer"),
    Kind("person", 0.0, False, FOREVER),
    Kind("company", 0.0, False, FOREVER, people=3_000.0),
    Kind("course", 0.25, False, FOREVER, people=5_000.0),
    Kind("group", 0.15, True, FOREVER, people=2_000.0),
    Kind("message", 0.4, False, 15.0, author="employee"),
    Kind("ad", 0.2, False, 30.0),
    Kind("article", 0.4, True, 45.0, people=90.0, author="writer"),
    Kind("event", 0.25, True, 40.0, people=80.0),
)
assert tuple(kind.entity_type for kind in KINDS) == ENTITY_TYPES


@dataclass(frozen=True, kw_only=True)
class Entities:
    """Entities, one row each; those of a type are adjacent (`rows`). Facts that a type does not show are drawn, too."""

    type_E: Array  # index into ENTITY_TYPES
    industry_E: Array
    role_E: Array
    seniority_E: Array
    skills_EK: Array  # indexes into SKILLS of the entity's industry
    topic_E: Array
    tone_E: Array
    employer_E: Array
    quality_E: Array  # 0 to QUALITIES - 1
    city_E: Array
    remote_E: Array  # bool
    company_E: Array  # index of a company; -1: none
    author_E: Array  # index of a member; -1: none
    owner_E: Array  # the member to whom a person is suggested; -1: other types
    mutual_E: Array
    people_E: Array
    query_role_E: Array
    query_city_E: Array  # -1: none
    created_E: Array  # day; the oldest entities exist before the log starts
    expires_E: Array  # day
    weight_E: Array  # exposure within its type, up to a factor
    shown_E: Array  # quality and number that the text shows, standard normal
    hidden_E: Array  # quality that no text shows, standard normal

    @property
    def count(self) -> int:
        """The number of entities."""
        return len(self.type_E)

    def first(self, entity_type: str) -> int:
        """Return the index of the first entity of a type."""
        return int(np.searchsorted(self.type_E, ENTITY_TYPES.index(entity_type)))

    def rows(self, entity_type: str) -> range:
        """Return the indexes of the entities of a type."""
        return range(
            self.first(entity_type), int(np.searchsorted(self.type_E, ENTITY_TYPES.index(entity_type), "right"))
        )


def draw_trends(config: EconomicGraphConfig) -> Array:
    """Draw the trend of each topic in each month: a random walk; (months, T), in units of `hidden_E`."""
    rng = random_stream(config, "trends")
    return np.cumsum(config.trend_sd * rng.standard_normal((config.months, TOPIC_COUNT)), axis=0)


def draw_entities(
    config: EconomicGraphConfig, companies: Companies, members: Members, suggested: tuple[Array, Array]
) -> Entities:
    """Draw all entities.

    Args:
        config: Their numbers.
        companies: Jobs, messages, ads and events come from a company.
        members: Posts, notifications and articles have an author; authors joined before the log starts.
        suggested: From `draw_suggestions`.
    """
    parts = [_draw_kind(config, kind, companies, members, suggested) for kind in KINDS]
    return Entities(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Entities)})


def _draw_kind(
    config: EconomicGraphConfig, kind: Kind, companies: Companies, members: Members, suggested: tuple[Array, Array]
) -> Entities:
    number = ENTITY_TYPES.index(kind.entity_type)
    rng = random_stream(config, "entities", number)
    person_E, mutual_E = (x.ravel() for x in suggested)
    sizes = {"person": len(person_E), "company": len(companies.names)}
    E = sizes.get(kind.entity_type) or max(8, round(kind.per_member * config.entity_density * config.members))
    none_E = np.full(E, -1)
    author_E = none_E
    if kind.entity_type == "person":
        author_E = person_E
    elif kind.author == "writer":
        author_E = _draw_writers(rng, members, E)
    industry_E = rng.integers(INDUSTRY_COUNT, size=E) if author_E is none_E else members.industry_M[author_E]
    topic_E = np.where(rng.random(E) < 0.7, draw_topics(rng, industry_E), rng.integers(TOPIC_COUNT, size=E))
    if kind.entity_type == "company":
        company_E, industry_E = np.arange(E), companies.industry_C
    else:
        company_E = companies.by_industry.draw(rng.random(E), industry_E)
    if kind.author == "employee":
        author_E = _draw_employees(rng, members, industry_E)
    role_E, seniority_E = draw_roles(rng, industry_E), draw_seniorities(rng, E)
    city_E = np.where(rng.random(E) < 0.7, companies.city_C[company_E], draw_cities(rng, E))
    quality_E = rng.integers(QUALITIES, size=E)
    if kind.entity_type == "company":
        city_E, quality_E = companies.city_C, companies.quality_C
    if kind.entity_type == "person":
        role_E, seniority_E, city_E = (x[author_E] for x in (members.role_M, members.seniority_M, members.city_M))
        company_E = members.company_M[author_E]
    shown_E, popular_E = _draw_qualities(rng, kind, quality_E)
    if kind.entity_type == "person":
        shown_E = np.zeros(E)  # the text says who they are, and not how good their profile is
    hidden_E = rng.standard_normal(E)
    owner_E, created_E, expires_E = none_E, *_draw_lifetimes(config, rng, kind, E)
    if kind.entity_type == "person":
        owner_E = np.repeat(np.arange(members.count), SUGGESTIONS)
        created_E = members.join_M[owner_E]
    return Entities(
        type_E=np.full(E, number),
        industry_E=industry_E,
        role_E=role_E,
        seniority_E=seniority_E,
        skills_EK=draw_skills(rng, industry_E, ENTITY_SKILLS),
        topic_E=topic_E,
        tone_E=rng.integers(len(TONES), size=E),
        employer_E=companies.employer_C[company_E],
        quality_E=quality_E,
        city_E=city_E,
        remote_E=rng.random(E) < 0.25,
        company_E=company_E,
        author_E=author_E,
        owner_E=owner_E,
        mutual_E=mutual_E if kind.entity_type == "person" else np.zeros(E, dtype=np.int64),
        people_E=np.maximum(1, kind.people * np.exp(_COUNT_SIGMA * popular_E)).astype(np.int64) * (kind.people > 0),
        query_role_E=np.where(rng.random(E) < 0.6, role_E, draw_roles(rng, industry_E)),
        query_city_E=_draw_query_cities(rng, city_E),
        created_E=created_E,
        expires_E=expires_E,
        weight_E=_draw_weights(config, rng, shown_E + 0.3 * hidden_E),
        shown_E=shown_E,
        hidden_E=hidden_E,
    )


def _draw_writers(rng: np.random.Generator, members: Members, count: int) -> Array:
    """Draw authors among the members who joined before the log starts, those with many followers more often."""
    writers = np.flatnonzero(members.join_M == 0)
    sampler = GroupSampler(
        np.zeros(len(writers), dtype=np.int64), np.sqrt(members.followers_M[writers] + 1.0), 1, writers
    )
    return sampler.draw(rng.random(count), np.zeros(count, dtype=np.int64))


def _draw_employees(rng: np.random.Generator, members: Members, industry_E: Array) -> Array:
    """Draw a member of each row's industry who joined before the log starts, or any such member."""
    early = np.flatnonzero(members.join_M == 0)
    sampler = GroupSampler(members.industry_M[early], np.ones(len(early)), INDUSTRY_COUNT, early)
    is_empty_E = sampler.is_empty(industry_E)
    first_E, last_E = np.where(is_empty_E, 0, industry_E), np.where(is_empty_E, INDUSTRY_COUNT - 1, industry_E)
    return sampler.draw(rng.random(len(industry_E)), first_E, last_E)


def _draw_query_cities(rng: np.random.Generator, city_E: Array) -> Array:
    channel_E = rng.random(len(city_E))
    return np.where(channel_E < 0.5, city_E, np.where(channel_E < 0.65, draw_cities(rng, len(city_E)), -1))


def _draw_lifetimes(
    config: EconomicGraphConfig, rng: np.random.Generator, kind: Kind, count: int
) -> tuple[Array, Array]:
    """Draw when entities appear and disappear; the first one is always there, so that something can be shown.

    Creation starts two lifetimes before the log, so that the number of live entities is steady from the first day.
    """
    stays = not np.isfinite(kind.lifetime_days)
    before = 10.0 * DAYS_PER_MONTH if stays else 2 * kind.lifetime_days
    created_E = rng.random(count) * (config.days + before) - before
    lifetime_E = np.full(count, np.inf) if stays else kind.lifetime_days * np.exp(0.5 * rng.standard_normal(count))
    expires_E = created_E + lifetime_E
    created_E[0], expires_E[0] = -before, np.inf
    return created_E, expires_E


def _draw_qualities(rng: np.random.Generator, kind: Kind, quality_E: Array) -> tuple[Array, Array]:
    """Combine the level of quality with the number that a text shows; both are standard normal in size."""
    spread = np.sqrt((QUALITIES**2 - 1) / 12)  # sd of a uniform level
    level_E = (quality_E - (QUALITIES - 1) / 2) / spread
    popular_E = 0.4 * level_E + np.sqrt(1 - 0.4**2) * rng.standard_normal(len(quality_E))
    if not kind.people:
        return level_E, popular_E
    both_E = 0.8 * level_E + 0.6 * popular_E
    return both_E / np.sqrt(0.8**2 + 0.6**2 + 2 * 0.8 * 0.6 * 0.4), popular_E


def _draw_weights(config: EconomicGraphConfig, rng: np.random.Generator, quality_E: Array) -> Array:
    """Draw Pareto weights whose ranks correlate with quality."""
    rho, E = config.exposure_correlation, len(quality_E)
    mixed_E = rho * quality_E / max(1e-9, quality_E.std()) + np.sqrt(1 - rho**2) * rng.standard_normal(E)
    rank_E = np.argsort(np.argsort(mixed_E))
    return np.sort((1 - rng.random(E)) ** (-1 / (config.popularity_exponent - 1)))[rank_E]

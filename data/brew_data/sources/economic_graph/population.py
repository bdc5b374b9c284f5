"""Draws companies and members, with the facts of their profiles and the preferences that no profile shows.

Shape suffixes: M members, C companies, K slots, P phases, A actions of all surfaces, X any rows.
"""

from dataclasses import dataclass

import numpy as np

from brew_data.sources.economic_graph import vocabulary as words
from brew_data.sources.economic_graph.config import DAYS_PER_MONTH, EconomicGraphConfig, random_stream
from brew_data.sources.economic_graph.facts import EMPLOYERS, QUALITIES, TONES
from brew_data.sources.economic_graph.group_sampler import Array, GroupSampler
from brew_data.sources.economic_graph.surfaces import SURFACES

__all__ = [
    "INDUSTRY_COUNT",
    "MEMBER_SKILLS",
    "SLOT_SIGNS",
    "TOPIC_COUNT",
    "Companies",
    "Members",
    "draw_companies",
    "draw_members",
    "draw_skills",
    "draw_topics",
    "locale_of",
]

INDUSTRY_COUNT, TOPIC_COUNT = len(words.INDUSTRIES), len(words.TOPICS)
MEMBER_SKILLS = 5  # of each member
SLOT_SIGNS = np.array([1.0, 1.0, -1.0])  # two topics that a member likes, one that they dislike
_SENIORITY_CHANCES = np.array([0.25, 0.35, 0.28, 0.12])  # our choice; the last one also of further levels


@dataclass(frozen=True, kw_only=True)
class Companies:
    """Companies, one row each."""

    names: list[str]
    industry_C: Array
    employer_C: Array
    city_C: Array
    quality_C: Array  # 0 to QUALITIES - 1
    by_industry: GroupSampler  # draws a company of an industry; every industry has one


@dataclass(frozen=True, kw_only=True)
class Members:
    """Members, one row each. Profiles show the first part; the rest can only be seen in what a member does."""

    names: list[str]
    industry_M: Array
    role_M: Array
    seniority_M: Array
    city_M: Array
    company_M: Array
    years_M: Array
    skills_MK: Array  # indexes into SKILLS of the member's industry
    past_company_M: Array  # -1: none
    past_role_M: Array
    past_seniority_M: Array
    past_years_M: Array
    mention_M: Array  # a liked topic that the profile mentions; -1: none
    says_seeks_M: Array  # bool: the profile says that the member is open to offers
    followers_M: Array
    opted_out_M: Array  # bool

    seeks_M: Array  # bool: the member looks for a job
    topic_MPK: Array  # int, (M, 2, 3): liked, liked and disliked topics, before and after the change
    change_M: Array  # day on which the second phase starts; infinite for most
    aim_MK: Array  # int, (M, 2): the industry that the member would like to be in, and one that they avoid
    tone_MK: Array  # int, (M, 2): the tone that the member likes, and one that they dislike
    employer_MK: Array  # as above
    willing_M: Array  # standard normal
    habit_MA: Array  # float32, standard normal, for each action of each surface
    join_M: Array  # day; 0: before the log starts
    rate_M: Array  # interactions per day

    @property
    def count(self) -> int:
        """The number of members."""
        return len(self.names)

    def liked_topics(self, member_N: Array, day_N: Array) -> Array:
        """Return the topics in the members' slots on a day; int, (N, 3). `SLOT_SIGNS` has their signs."""
        return self.topic_MPK[member_N, (day_N >= self.change_M[member_N]).astype(np.int64)]


def locale_of(city: int) -> str:
    """Return the locale of a city."""
    return words.CITIES[city][2]


def draw_topics(rng: np.random.Generator, industry_X: Array) -> Array:
    """Draw a topic of each row's industry."""
    counts = np.array([len(topics) for topics in words.INDUSTRY_TOPICS])
    table = np.zeros((INDUSTRY_COUNT, counts.max()), dtype=np.int64)
    for industry, topics in enumerate(words.INDUSTRY_TOPICS):
        table[industry, : len(topics)] = topics
    return table[industry_X, (rng.random(len(industry_X)) * counts[industry_X]).astype(np.int64)]


def draw_skills(rng: np.random.Generator, industry_X: Array, count: int) -> Array:
    """Draw `count` different skills of each row's industry; int, (X, count)."""
    sizes = np.array([len(skills) for skills in words.SKILLS])
    keys = rng.random((len(industry_X), sizes.max()))
    keys[np.arange(sizes.max()) >= sizes[industry_X][:, None]] = 2.0  # the industry has fewer skills
    return np.argsort(keys, axis=1)[:, :count]


def draw_roles(rng: np.random.Generator, industry_X: Array) -> Array:
    """Draw a role of each row's industry."""
    sizes = np.array([len(roles) for roles in words.ROLES])
    return (rng.random(len(industry_X)) * sizes[industry_X]).astype(np.int64)


def draw_seniorities(rng: np.random.Generator, count: int) -> Array:
    """Draw levels of seniority."""
    chances = np.resize(_SENIORITY_CHANCES, len(words.SENIORITIES))
    chances[len(_SENIORITY_CHANCES) :] = _SENIORITY_CHANCES[-1] / 2
    return rng.choice(len(chances), size=count, p=chances / chances.sum())


def draw_cities(rng: np.random.Generator, count: int) -> Array:
    """Draw cities; the first ones are the largest (Zipf's law, with an offset of our choice)."""
    weights = 1 / (np.arange(len(words.CITIES)) + 5.0)
    return rng.choice(len(weights), size=count, p=weights / weights.sum())


def draw_companies(config: EconomicGraphConfig) -> Companies:
    """Draw the companies: one for about 12 members, and at least two in each industry."""
    rng = random_stream(config, "companies")
    C = max(2 * INDUSTRY_COUNT, config.members // 12)
    industry_C = np.arange(C) % INDUSTRY_COUNT
    names = [""] * C
    for industry in range(INDUSTRY_COUNT):
        rows = range(industry, C, INDUSTRY_COUNT)
        for row, name in zip(rows, words.company_names(rng, len(rows), industry), strict=True):
            names[row] = name
    return Companies(
        names=names,
        industry_C=industry_C,
        employer_C=rng.integers(len(EMPLOYERS), size=C),
        city_C=draw_cities(rng, C),
        quality_C=rng.integers(QUALITIES, size=C),
        by_industry=GroupSampler(industry_C, (1 - rng.random(C)) ** -0.7, INDUSTRY_COUNT),
    )


def draw_members(config: EconomicGraphConfig, companies: Companies) -> Members:
    """Draw `config.members` members."""
    rng = random_stream(config, "members")
    M = config.members
    industry_M = rng.integers(INDUSTRY_COUNT, size=M)
    seniority_M = draw_seniorities(rng, M)
    city_M = draw_cities(rng, M)
    activity_M = np.exp(config.activity_sigma * rng.standard_normal(M) - config.activity_sigma**2 / 2)  # mean 1

    has_past_M = rng.random(M) < 0.6
    past_industry_M = np.where(rng.random(M) < 0.7, industry_M, rng.integers(INDUSTRY_COUNT, size=M))
    past_company_M = np.where(has_past_M, companies.by_industry.draw(rng.random(M), past_industry_M), -1)

    topic_MPK = _draw_topic_slots(rng, industry_M)
    seeks_M = rng.random(M) < 0.25
    newcomer_M = rng.permutation(M) < round(config.cold_start_share * M)
    early_M = rng.random(M) < 0.6  # joined before the log starts; the others join evenly until the last month
    join_M = np.where(early_M, 0.0, rng.random(M) * (config.days - DAYS_PER_MONTH))
    join_M = np.where(newcomer_M, config.days - DAYS_PER_MONTH * rng.random(M), join_M)
    join_M[:4] = 0.0  # so that a small graph has authors and people to suggest, too
    return Members(
        names=_draw_names(rng, city_M),
        industry_M=industry_M,
        role_M=draw_roles(rng, industry_M),
        seniority_M=seniority_M,
        city_M=city_M,
        company_M=companies.by_industry.draw(rng.random(M), industry_M),
        years_M=1 + rng.poisson(1.0 + 1.5 * seniority_M),
        skills_MK=draw_skills(rng, industry_M, MEMBER_SKILLS),
        past_company_M=past_company_M,
        past_role_M=draw_roles(rng, past_industry_M),
        past_seniority_M=np.maximum(seniority_M - 1, 0),
        past_years_M=1 + rng.poisson(2.0, size=M),
        mention_M=np.where(rng.random(M) < config.mention_share, topic_MPK[:, 0, 0], -1),
        says_seeks_M=seeks_M & (rng.random(M) < 0.6),
        followers_M=np.exp(5.0 + 0.4 * seniority_M + 1.2 * rng.standard_normal(M)).astype(np.int64),
        opted_out_M=rng.random(M) < config.opted_out_share,
        seeks_M=seeks_M,
        topic_MPK=topic_MPK,
        change_M=np.where(rng.random(M) < config.drift_share, rng.random(M) * config.days, np.inf),
        aim_MK=_draw_others(rng, industry_M),
        tone_MK=_draw_pairs(rng, M, len(TONES)),
        employer_MK=_draw_pairs(rng, M, len(EMPLOYERS)),
        willing_M=rng.standard_normal(M),
        habit_MA=rng.standard_normal((M, sum(len(s.actions) for s in SURFACES)), dtype=np.float32),
        join_M=join_M,
        rate_M=config.interactions_per_member * activity_M / config.days,
    )


def _draw_topic_slots(rng: np.random.Generator, industry_M: Array) -> Array:
    """Draw liked, liked and disliked topics, all different; in the second phase, the second one is another one."""
    M = len(industry_M)
    order_MT = np.argsort(rng.random((M, TOPIC_COUNT)), axis=1)[:, :5]
    own_M = np.where(rng.random(M) < 0.5, draw_topics(rng, industry_M), order_MT[:, 0])  # often one of the industry
    others_MK = np.where(order_MT[:, 1:4] == own_M[:, None], order_MT[:, 4:5], order_MT[:, 1:4])
    before = np.stack([own_M, others_MK[:, 0], others_MK[:, 1]], axis=1)
    after = np.stack([own_M, others_MK[:, 2], others_MK[:, 1]], axis=1)
    return np.stack([before, after], axis=1)


def _draw_others(rng: np.random.Generator, industry_M: Array) -> Array:
    """Draw two different industries, neither of them the member's own."""
    steps_MK = 1 + np.argsort(rng.random((len(industry_M), INDUSTRY_COUNT - 1)), axis=1)[:, :2]
    return (industry_M[:, None] + steps_MK) % INDUSTRY_COUNT


def _draw_pairs(rng: np.random.Generator, rows: int, values: int) -> Array:
    return np.argsort(rng.random((rows, values)), axis=1)[:, :2]


def _draw_names(rng: np.random.Generator, city_M: Array) -> list[str]:
    first_M, last_M = rng.random(len(city_M)), rng.random(len(city_M))
    names = []
    for city, first, last in zip(city_M.tolist(), first_M.tolist(), last_M.tolist(), strict=True):
        first_names, last_names = words.FIRST_NAMES[locale_of(city)], words.LAST_NAMES[locale_of(city)]
        names.append(f"{first_names[int(first * len(first_names))]} {last_names[int(last * len(last_names))]}")
    return names

"""Draws the members, jobs and posts of the synthetic graph, with the attributes that do not change over time.

Shape suffixes: M members, E entities of one type, S skills, V values of an attribute, T months, X any rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from brew_data.sources.synthetic import vocabulary as words
from brew_data.sources.synthetic.config import DAYS_PER_MONTH, SyntheticConfig

__all__ = ["Array", "Entities", "Members", "draw_entities", "draw_members"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Members:
    """Members, one row each."""

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
class Entities:
    """Jobs or posts. All attributes are drawn for both types; the text of a type contains only its own."""

    group_E: Array  # a job's industry, a post's topic: members have interests in groups
    format_E: Array
    source_E: Array  # a job's company, a post's author's role
    bucket_E: Array  # 0..3: the popularity that the text shows
    industry_E: Array  # of a job, or of a post's author
    role_E: Array
    seniority_E: Array
    city_E: Array
    skills_ES: Array  # bool, which of all 30 skills
    created_E: Array  # day; the oldest entities exist before the log starts
    expires_E: Array  # day
    weight_E: Array  # exposure, up to a factor
    quality_E: Array  # logits
    trend_TV: Array  # logits of each group in each month


def draw_members(config: SyntheticConfig, rng: np.random.Generator) -> Members:
    """Draw `config.members` members."""
    M, T = config.members, config.months
    industry_M = rng.integers(len(words.INDUSTRIES), size=M)
    newcomer_M = rng.permutation(M) < round(config.cold_start_share * M)
    early_M = rng.random(M) < 0.6  # joined before the log starts; the others join evenly until the last month
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
    return Members(
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
    """Draw `own` of the five skills of each row's industry; returns bool, shape (rows, 30)."""
    order = np.argsort(rng.random((len(industry_X), 5)), axis=1)[:, :own]
    skills = np.zeros((len(industry_X), 5 * len(words.INDUSTRIES)), dtype=bool)
    np.put_along_axis(skills, industry_X[:, None] * 5 + order, True, axis=1)
    return skills


def draw_entities(config: SyntheticConfig, rng: np.random.Generator, kind: str) -> Entities:
    """Draw all entities of one kind, "job" or "post"."""
    is_job = kind == "job"
    E = config.jobs if is_job else config.posts
    sources = len(words.COMPANIES if is_job else words.AUTHORS)
    groups = len(words.INDUSTRIES if is_job else words.TOPICS)
    median = config.job_lifetime_days if is_job else config.post_lifetime_days
    lifetime_E = median * np.exp(0.5 * rng.standard_normal(E))
    # Creation starts two lifetimes before the log, so that the number of live entities is steady from day 0.
    created_E = rng.random(E) * (config.days + 2 * median) - 2 * median
    expires_E = created_E + lifetime_E
    created_E[0], expires_E[0] = -2 * median, config.days + 1  # never expires, so that one entity is always live
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
    return Entities(
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

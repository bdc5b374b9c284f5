"""Computes the probability of each action of a surface: the true probabilities of the oracle.

The logit of an action is `base + depth * (sum of strengths * components) + habit + leaning`; the logit of no reaction
is 0, and the probabilities are their softmax. Components are standardised per surface, so that a strength is a standard
deviation in logits. docs/economic_graph.md has the formula.

Shape suffixes: N interactions of one surface, A actions of the surface, C components.
"""

from typing import NamedTuple

import numpy as np

from brew_data.sources.economic_graph import vocabulary as words
from brew_data.sources.economic_graph.config import DAYS_PER_MONTH, EconomicGraphConfig, random_stream
from brew_data.sources.economic_graph.entities import KINDS
from brew_data.sources.economic_graph.exposure import MonthExposure
from brew_data.sources.economic_graph.facts import ENTITY_TYPES
from brew_data.sources.economic_graph.group_sampler import Array, GroupSampler
from brew_data.sources.economic_graph.population import INDUSTRY_COUNT, SLOT_SIGNS, TOPIC_COUNT
from brew_data.sources.economic_graph.surfaces import SURFACES, Surface
from brew_data.sources.economic_graph.world import World

__all__ = ["BY_EMPLOYER", "COMPONENTS", "MATCHES", "Behaviour", "components", "match_features", "style_of"]

COMPONENTS = ("match", "interest", "taste", "quality", "hidden", "social", "member")

# What profile and entity have in common, with its weight in the component `match`; our choice.
_JOB = {"same_industry": 1.0, "same_role": 1.0, "seniority_steps": -0.4, "same_city": 0.6, "common_skills": 0.5}
_CONTENT = {"related_topic": 1.0, "mentioned_topic": 1.5}
MATCHES: dict[str, dict[str, float]] = {
    "job": _JOB,
    "search_result": _JOB,
    "post": {**_CONTENT, "same_industry": 0.6},
    "notification": {**_CONTENT, "same_industry": 0.6},
    "person": {"same_industry": 0.8, "same_company": 1.0, "same_city": 0.6, "seniority_steps": -0.2, "mutual": 0.7},
    "company": {"same_industry": 1.0, "same_city": 0.6},
    "course": {"same_industry": 1.0, "seniority_steps": -0.3, "common_skills": 0.5},
    "group": {**_CONTENT, "same_industry": 0.6},
    "message": _JOB,
    "ad": {"same_industry": 1.0, "related_topic": 0.7},
    "article": {**_CONTENT, "same_industry": 0.6},
    "event": {**_CONTENT, "same_city": 0.8},
}
_RELATED = np.zeros((INDUSTRY_COUNT, TOPIC_COUNT), dtype=bool)  # which topics belong to an industry
for _industry, _topics in enumerate(words.INDUSTRY_TOPICS):
    _RELATED[_industry, list(_topics)] = True
_AIM_SIGNS = np.array([1.0, -1.0])
BY_EMPLOYER = ("job", "search_result", "company", "message", "ad")  # others have a tone
_FOR_SEEKERS = ("job", "search_result", "message")
_SEEKING = 1.0  # of somebody who looks for a job, in the component `member`; our choice
_RETURNING = 1.0  # logits per depth, of somebody who comes back to an entity; our choice
_SEARCHED = 0.8  # of a result whose role is the one that was searched for, in the component `quality`; our choice
_CALIBRATION_ROWS = 4_096  # per surface
_CALIBRATION_MONTHS = 6


def match_features(world: World, entity_type: str, member_N: Array, entity_N: Array) -> dict[str, Array]:
    """Compute what profile and entity have in common, by name; those that `MATCHES` has for the type."""
    members, entities = world.members, world.entities
    industry_N = members.industry_M[member_N]
    same_industry_N = industry_N == entities.industry_E[entity_N]
    topic_N = entities.topic_E[entity_N]

    def feature(name: str) -> Array:
        if name == "same_industry":
            return same_industry_N
        if name == "same_role":
            return same_industry_N & (members.role_M[member_N] == entities.role_E[entity_N])
        if name == "seniority_steps":
            return np.abs(members.seniority_M[member_N] - entities.seniority_E[entity_N])
        if name == "same_city":
            remote_N = entities.remote_E[entity_N] & (entity_type != "person") & (entity_type != "company")
            return remote_N | (members.city_M[member_N] == entities.city_E[entity_N])
        if name == "same_company":
            return members.company_M[member_N] == entities.company_E[entity_N]
        if name == "common_skills":
            common = members.skills_MK[member_N][:, :, None] == entities.skills_EK[entity_N][:, None, :]
            return same_industry_N * common.sum(axis=(1, 2))
        if name == "related_topic":
            return _RELATED[industry_N, topic_N]
        if name == "mentioned_topic":
            return members.mention_M[member_N] == topic_N
        assert name == "mutual"
        return np.log1p(entities.mutual_E[entity_N])

    return {name: feature(name).astype(np.float64) for name in MATCHES[entity_type]}


def style_of(world: World, entity_type: str, entity_N: Array) -> Array:
    """Return the employer or the tone of each entity; -1 for people, who have neither."""
    if entity_type == "person":
        return np.full(len(entity_N), -1)
    return (world.entities.employer_E if entity_type in BY_EMPLOYER else world.entities.tone_E)[entity_N]


def components(world: World, entity_type: str, member_N: Array, entity_N: Array, day_N: Array) -> Array:
    """Compute the components of the logit before they are standardised; (N, C), in the order of `COMPONENTS`."""
    members, entities = world.members, world.entities
    features = match_features(world, entity_type, member_N, entity_N)
    match_N = sum((weight * features[name] for name, weight in MATCHES[entity_type].items()), np.zeros(len(member_N)))

    topic_N = entities.topic_E[entity_N]
    by_topic_N = ((members.liked_topics(member_N, day_N) == topic_N[:, None]) * SLOT_SIGNS).sum(axis=1)
    by_industry_N = ((members.aim_MK[member_N] == entities.industry_E[entity_N][:, None]) * _AIM_SIGNS).sum(axis=1)
    if entity_type in ("ad", "person"):
        interest_N = by_topic_N + by_industry_N
    else:
        interest_N = by_topic_N if KINDS[ENTITY_TYPES.index(entity_type)].by_topic else by_industry_N

    style_N = style_of(world, entity_type, entity_N)
    tastes_MK = members.employer_MK if entity_type in BY_EMPLOYER else members.tone_MK
    taste_N = ((tastes_MK[member_N] == style_N[:, None]) * _AIM_SIGNS).sum(axis=1)

    quality_N = entities.shown_E[entity_N]
    if entity_type == "search_result":
        quality_N = quality_N + _SEARCHED * (entities.query_role_E[entity_N] == entities.role_E[entity_N])
    month_N = np.minimum(day_N // DAYS_PER_MONTH, world.config.months - 1).astype(np.int64)
    hidden_N = entities.hidden_E[entity_N] + world.trends_TV[month_N, topic_N]

    author_N = entities.author_E[entity_N]
    has_author_N = (author_N >= 0) & (entity_type != "person")
    social_N = has_author_N & world.network.knows(member_N, np.maximum(author_N, 0))
    willing_N = members.willing_M[member_N] + _SEEKING * members.seeks_M[member_N] * (entity_type in _FOR_SEEKERS)
    return np.stack([match_N, interest_N, taste_N, quality_N, hidden_N, social_N, willing_N], axis=1).astype(np.float64)


def _strengths(config: EconomicGraphConfig) -> Array:
    return np.array([getattr(config, f"{name}_strength") for name in COMPONENTS])


class _Calibration(NamedTuple):
    """Of one surface."""

    mean_C: Array
    scale_C: Array  # strength / standard deviation; 0 where a component is constant
    base_A: Array


class Behaviour:
    """The probabilities of actions, calibrated so that actions have about the rates of `SURFACES`.

    Means, standard deviations and bases are estimated on impressions that are drawn for this purpose, so they do not
    depend on how the interactions are generated.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._first_habit = np.cumsum([0, *(len(surface.actions) for surface in SURFACES)])
        self._calibrations: list[_Calibration] = []
        samples = _calibration_sample(world)
        for number, (member_N, entity_N, day_N) in enumerate(samples):
            raw_NC = components(world, SURFACES[number].entity_type, member_N, entity_N, day_N)
            sd_C = raw_NC.std(axis=0)
            scale_C = np.where(sd_C > 1e-9, _strengths(world.config) / np.maximum(sd_C, 1e-9), 0.0)
            start = _Calibration(raw_NC.mean(axis=0), scale_C, np.zeros(len(SURFACES[number].actions)))
            logit_NA = self._logits(number, start, member_N, entity_N, day_N)
            self._calibrations.append(start._replace(base_A=_solve_base(logit_NA, SURFACES[number])))

    def probabilities(
        self, surface: int, member_N: Array, entity_N: Array, day_N: Array, *, returning: bool = False
    ) -> Array:
        """Compute the probability of each action of a surface.

        Args:
            surface: Index into SURFACES.
            member_N: Members.
            entity_N: Entities of the surface's type.
            day_N: Fractional days since the start of the log.
            returning: The members come back to an entity that they saw before.

        Returns:
            float64, (N, A); each row sums to 1.
        """
        actions = SURFACES[surface].actions
        calibration = self._calibrations[surface]
        logit_NA = calibration.base_A + self._logits(surface, calibration, member_N, entity_N, day_N)
        if returning:
            logit_NA += _RETURNING * np.array([action.depth for action in actions])
        share = self._world.config.noisy_click_share if SURFACES[surface].noisy else 0.0
        return (1 - share) * _softmax(logit_NA) + share * np.array([action.rate for action in actions])

    def _logits(self, surface: int, calibration: _Calibration, member_N: Array, entity_N: Array, day_N: Array) -> Array:
        """Compute the logits without `base`."""
        entity_type, actions = SURFACES[surface].entity_type, SURFACES[surface].actions
        raw_NC = components(self._world, entity_type, member_N, entity_N, day_N)
        affinity_N = ((raw_NC - calibration.mean_C) * calibration.scale_C).sum(axis=1)
        logit_NA = affinity_N[:, None] * np.array([action.depth for action in actions])
        first = self._first_habit[surface]
        acts_A = np.array([action.depth != 0 for action in actions])
        config = self._world.config
        habit_NA = self._world.members.habit_MA[member_N, first : first + len(actions)]
        logit_NA += config.habit_strength * habit_NA * acts_A
        style_N = style_of(self._world, entity_type, entity_N)
        for index, action in enumerate(actions):
            if action.favours is not None:
                logit_NA[:, index] += config.leaning_strength * (style_N == action.favours)
        return logit_NA


def _calibration_sample(world: World) -> list[tuple[Array, Array, Array]]:
    """Draw members, entities and days of impressions of each surface, over the whole log."""
    config, members = world.config, world.members
    months = np.unique(np.linspace(0, config.months - 1, _CALIBRATION_MONTHS).astype(int))
    parts: list[list[tuple[Array, Array, Array]]] = [[] for _ in SURFACES]
    for month in months.tolist():
        rng = random_stream(config, "calibration", month)
        exposure = MonthExposure(world, month)
        end = (month + 1) * DAYS_PER_MONTH
        active = np.flatnonzero(members.join_M < end)
        sampler = GroupSampler(np.zeros(len(active), dtype=np.int64), members.rate_M[active], 1, active)
        N = -(-_CALIBRATION_ROWS // len(months))
        for number, surface in enumerate(SURFACES):
            member_N = sampler.draw(rng.random(N), np.zeros(N, dtype=np.int64))
            begin_N = np.maximum(members.join_M[member_N], month * DAYS_PER_MONTH)
            day_N = begin_N + rng.random(N) * (end - begin_N)
            entity_N = exposure.draw(rng, surface.entity_type, member_N, day_N)
            parts[number].append((member_N, entity_N, day_N))
    return [tuple(np.concatenate(columns) for columns in zip(*part, strict=True)) for part in parts]


def _solve_base(logit_NA: Array, surface: Surface) -> Array:
    """Find the bases with which the mean probability of each action is its rate."""
    rate_A = np.array([action.rate for action in surface.actions])
    base_A, error = np.log(rate_A), np.inf
    while error > 1e-6:
        step_A = np.log(rate_A / _softmax(base_A + logit_NA).mean(axis=0))
        base_A, error = base_A + step_A, np.abs(step_A).max()
    return base_A - base_A[[action.depth == 0 for action in surface.actions].index(True)]


def _softmax(logit_NA: Array) -> Array:
    exp_NA = np.exp(logit_NA - logit_NA.max(axis=1, keepdims=True))
    return exp_NA / exp_NA.sum(axis=1, keepdims=True)

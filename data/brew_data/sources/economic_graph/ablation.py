"""Measures what can be predicted without the text, without the history, and at best, for each task of a suite.

`python -m brew_data.sources.economic_graph.ablation` prints the table of docs/economic_graph.md.
Shape suffix: N interactions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from brew_data.prompts.suite import TaskSuite, load_suite
from brew_data.sources.economic_graph.behaviour import BY_EMPLOYER, match_features, style_of
from brew_data.sources.economic_graph.config import DAYS_PER_MONTH, START, EconomicGraphConfig
from brew_data.sources.economic_graph.entities import KINDS
from brew_data.sources.economic_graph.facts import ENTITY_TYPES
from brew_data.sources.economic_graph.group_sampler import Array
from brew_data.sources.economic_graph.interactions import Interactions, generate_months
from brew_data.sources.economic_graph.surfaces import SURFACES, Surface
from brew_data.sources.economic_graph.world import World, draw_world
from brew_data.sources.synthetic.reachability import leaning
from brew_platform.metrics import auc, smoothed_mean

__all__ = ["Ablation", "measure"]

_GAP_DAYS = DAYS_PER_MONTH


class Ablation(NamedTuple):
    """The AUCs of one task on the last month. Models are fitted on the months before the gap."""

    task: str
    is_trained: bool
    rows: int
    positive_rate: float
    popularity: float  # mean of the entity, smoothed with 5 rows of the global mean
    profile: float  # logistic regression on facts of the profile
    matches: float  # logistic regression on what profile and entity have in common
    text: float  # the same, with what the text shows of the entity: quality, numbers, tone or employer
    history: float  # the same, with earlier reactions of the member: all that a prompt contains
    best: float  # the true probability

    def share(self, auc: float) -> float:
        """Return the part of the gap between popularity and the best that `auc` closes."""
        return (auc - self.popularity) / (self.best - self.popularity)


def measure(config: EconomicGraphConfig, suite: TaskSuite) -> list[Ablation]:
    """Generate a graph and measure all tasks. The default size takes about 30 s.

    Args:
        config: The graph.
        suite: Tasks on its surfaces.
    """
    world = draw_world(config)
    rows = Interactions.concatenate(list(generate_months(world)))
    rows = rows.take(~world.members.opted_out_M[rows.member_N])
    micros_per_day = 86_400_000_000
    day_N = (rows.time_N - int(START.timestamp() * 1_000_000)) / micros_per_day
    leanings_NF = _leanings(world, rows, day_N < config.days - DAYS_PER_MONTH - _GAP_DAYS)
    results = []
    for number, surface in enumerate(SURFACES):
        of_surface = np.flatnonzero(rows.surface_N == number)
        part, day = rows.take(of_surface), day_N[of_surface]
        train, test = day < config.days - DAYS_PER_MONTH - _GAP_DAYS, day >= config.days - DAYS_PER_MONTH
        profile = _profile_features(world, part)
        matches = np.stack(list(match_features(world, surface.entity_type, part.member_N, part.entity_N).values()), 1)
        shown = _shown_features(world, surface, part)
        text = np.concatenate([matches, shown], axis=1)
        history = np.concatenate([text, leanings_NF[of_surface]], axis=1)
        for task in suite.tasks_of(surface.name):
            positive = np.isin([action.name for action in surface.actions], suite.positive_actions(task))
            y = positive[part.action_N].astype(np.float64)
            truth = part.probability_NA[:, : len(surface.actions)][:, positive].sum(axis=1)
            popularity = smoothed_mean(part.entity_N[train], y[train], part.entity_N[test])
            fitted = [_fitted(features, y, train)[test] for features in (profile, matches, text, history)]
            aucs = [auc(y[test].astype(np.int64), score) for score in (popularity, *fitted, truth[test])]
            values = [float("nan") if value is None else value for value in aucs]
            results.append(Ablation(task.name, task.in_training, int(test.sum()), float(y[test].mean()), *values))
    return results


def _profile_features(world: World, rows: Interactions) -> Array:
    members, member_N = world.members, rows.member_N
    return np.concatenate(
        [
            _one_hot(members.industry_M[member_N]),
            _one_hot(members.seniority_M[member_N]),
            np.stack(
                [
                    np.log1p(members.followers_M[member_N]),
                    members.says_seeks_M[member_N],
                    members.mention_M[member_N] >= 0,
                    members.years_M[member_N],
                ],
                axis=1,
            ),
        ],
        axis=1,
    )


def _shown_features(world: World, surface: Surface, rows: Interactions) -> Array:
    """Compute what the text of an entity shows about it: quality, numbers, tone or employer, and what was searched."""
    entities, entity_N = world.entities, rows.entity_N
    searched_N = entities.query_role_E[entity_N] == entities.role_E[entity_N]
    style_N = style_of(world, surface.entity_type, entity_N)
    return np.concatenate([np.stack([entities.shown_E[entity_N], searched_N], axis=1), _one_hot(style_N)], axis=1)


def _leanings(world: World, rows: Interactions, train_N: Array) -> Array:
    """Compute how much more often than usual a member reacted before: at all, on the surface, to the like of it."""
    reacted_N, usual_N = np.zeros(rows.count), np.zeros(rows.count)
    group_N, style_N = np.zeros((2, rows.count), dtype=np.int64)
    for number, surface in enumerate(SURFACES):
        part = np.flatnonzero(rows.surface_N == number)
        entity_N = rows.entity_N[part]
        reacted_N[part] = np.array([action.depth > 0 for action in surface.actions])[rows.action_N[part]]
        usual_N[part] = reacted_N[part][train_N[part]].mean()
        by_topic = KINDS[ENTITY_TYPES.index(surface.entity_type)].by_topic
        group_N[part] = 1_000 + world.entities.topic_E[entity_N] if by_topic else world.entities.industry_E[entity_N]
        style_N[part] = style_of(world, surface.entity_type, entity_N) + 10 * (surface.entity_type in BY_EMPLOYER)
    keys = [np.zeros_like(group_N), 5_000 + rows.surface_N.astype(np.int64), 10_000 + group_N, 20_000 + style_N]
    first_N = rows.member_N.astype(np.int64) * 100_000
    return np.stack([leaning(first_N + key, reacted_N, usual_N) for key in keys], axis=1)


def _one_hot(value_N: Array) -> Array:
    return np.asarray(value_N[:, None] == np.unique(value_N), dtype=np.float64)


def _fitted(features_NF: Array, y_N: Array, train_N: Array) -> Array:
    """Fit a logistic regression on the training rows, and score all rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(y_N[train_N])) < 2:  # there is nothing to learn
        return np.zeros(len(y_N))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, solver="newton-cholesky"))
    model.fit(features_NF[train_N], y_N[train_N])
    return np.asarray(model.predict_proba(features_NF)[:, 1])


def table(results: Sequence[Ablation]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| task | | rows | positive | popularity | profile | matches (share) | text | history (share) | best |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        part = "T1" if r.is_trained else "T2"
        lines.append(
            f"| {r.task} | {part} | {r.rows:,} | {r.positive_rate:.2f} | {r.popularity:.3f} | {r.profile:.3f} "
            f"| {r.matches:.3f} ({r.share(r.matches):.2f}) | {r.text:.3f} | {r.history:.3f} ({r.share(r.history):.2f}) "
            f"| {r.best:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table of docs/economic_graph.md for the default config."""
    print(table(measure(EconomicGraphConfig(), load_suite("professional_network"))))


if __name__ == "__main__":
    main()

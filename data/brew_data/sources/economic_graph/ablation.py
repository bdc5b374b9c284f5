"""Measures what can be predicted without the text, without the history, and at best, for each task of a suite.

`python -m brew_data.sources.economic_graph.ablation` prints the table of docs/economic_graph.md.
Shape suffix: N interactions.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from brew_data.prompts.suite import TaskSuite, load_suite
from brew_data.prompts.tasks import TaskSpec
from brew_data.sources.economic_graph.behaviour import BY_EMPLOYER, match_features, style_of
from brew_data.sources.economic_graph.config import DAYS_PER_MONTH, START, EconomicGraphConfig
from brew_data.sources.economic_graph.entities import KINDS
from brew_data.sources.economic_graph.facts import ENTITY_TYPES
from brew_data.sources.economic_graph.group_sampler import Array
from brew_data.sources.economic_graph.interactions import Interactions, generate_months
from brew_data.sources.economic_graph.surfaces import SURFACES, Surface
from brew_data.sources.economic_graph.world import World, draw_world
from brew_data.sources.synthetic.reachability import leaning
from brew_data.split import Split
from brew_platform.metrics import auc, smoothed_mean

__all__ = ["REGRESSIONS", "Ablation", "TaskScores", "measure", "score_tasks"]

REGRESSIONS = ("profile", "matches", "text", "history")  # the fields of `Ablation` with these names


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


class TaskScores(NamedTuple):
    """The scores of one task by several models, on interactions that none of them was fitted on."""

    task: TaskSpec
    id_N: Array  # int64 interaction ids
    label_N: Array  # float64, 0 or 1
    score_N: dict[str, Array]  # float64 by model: popularity, the regressions, best


def measure(config: EconomicGraphConfig, suite: TaskSuite) -> list[Ablation]:
    """Generate a graph and measure all tasks on its last month. The default size takes about 30 s.

    Args:
        config: The graph.
        suite: Tasks on its surfaces.
    """
    start, day = int(START.timestamp() * 1_000_000), 86_400_000_000
    month = DAYS_PER_MONTH * day
    split = Split(train_until=start + config.days * day - 2 * month - 1, until=start + config.days * day, gap=month)
    results = []
    for scores in score_tasks(config, suite, split):
        label_N = scores.label_N
        aucs = {name: auc(label_N.astype(np.int64), score_N) for name, score_N in scores.score_N.items()}
        results.append(
            Ablation(
                task=scores.task.name,
                is_trained=scores.task.in_training,
                rows=len(label_N),
                positive_rate=float(label_N.mean()),
                **{name: float("nan") if value is None else value for name, value in aucs.items()},
            )
        )
    return results


def score_tasks(
    config: EconomicGraphConfig, suite: TaskSuite, split: Split, regressions: Sequence[str] = REGRESSIONS
) -> Iterator[TaskScores]:
    """Generate a graph, fit the models of each task, and score its benchmark rows.

    Args:
        config: The graph.
        suite: Tasks on its surfaces.
        split: Models are fitted on the rows of members who have not opted out up to the cut; later rows are scored.
        regressions: Those of `REGRESSIONS` that are fitted.
    """
    world = draw_world(config)
    rows = Interactions.concatenate(list(generate_months(world)))
    id_N = np.flatnonzero(~world.members.opted_out_M[rows.member_N])
    rows = rows.take(id_N)
    train_N = rows.time_N <= split.train_until
    test_N = (rows.time_N > split.benchmark_after) & (rows.time_N <= split.until)
    leanings_NF = _leanings(world, rows, train_N)
    for number, surface in enumerate(SURFACES):
        tasks = suite.tasks_of(surface.name)
        of_surface = np.flatnonzero(rows.surface_N == number)
        part, train, test = rows.take(of_surface), train_N[of_surface], test_N[of_surface]
        if not (tasks and train.any() and test.any()):
            continue
        matches = np.stack(list(match_features(world, surface.entity_type, part.member_N, part.entity_N).values()), 1)
        text = np.concatenate([matches, _shown_features(world, surface, part)], axis=1)
        features = {
            "profile": _profile_features(world, part),
            "matches": matches,
            "text": text,
            "history": np.concatenate([text, leanings_NF[of_surface]], axis=1),
        }
        for task in tasks:
            positive = np.isin([action.name for action in surface.actions], suite.positive_actions(task))
            y = positive[part.action_N].astype(np.float64)
            truth = part.probability_NA[:, : len(surface.actions)][:, positive].sum(axis=1)
            yield TaskScores(
                task,
                id_N[of_surface][test],
                y[test],
                {
                    "popularity": smoothed_mean(part.entity_N[train], y[train], part.entity_N[test]),
                    **{name: _fitted(features[name], y, train)[test] for name in regressions},
                    "best": truth[test],
                },
            )


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

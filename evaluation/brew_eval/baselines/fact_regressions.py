"""Regressions on the facts behind generated data, which a benchmark shows as `fact_NAME`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc

from brew_data.prompts.suite import TaskSuite
from brew_data.schema import Tables, micros
from brew_data.split import Split

__all__ = ["fit_fact_regressions"]

Baselines = dict[str, dict[str, dict[int, float]]]


def fit_fact_regressions(
    source: str, source_config: Mapping[str, Any], tables: Tables, suite: TaskSuite, split: Split
) -> Baselines:
    """Fit logistic regressions on the training rows of generated data, and score the interactions after the cut.

    They read facts that texts say, without error: what a model can reach that understands the texts.

    Args:
        source: Name of the source.
        source_config: Its settings. The facts of the economic graph are drawn from them again; empty if unknown.
        tables: The tables of the source.
        suite: The tasks.
        split: The cut.

    Returns:
        By name of the regression and task: the probability of a positive outcome by interaction id. Of the economic
        graph: `profile` has the profile only, `matches` what profile and entity have in common
        (`brew_data.sources.economic_graph.ablation`). Of the synthetic graph: `logistic` has all that a prompt has
        (`brew_data.sources.synthetic.reachability`). Empty for another source.
    """
    if source == "synthetic":
        return {"logistic": _of_synthetic(tables, suite, split)}
    if source == "economic_graph" and source_config:
        return _of_economic_graph(source_config, suite, split)
    return {}


def _of_synthetic(tables: Tables, suite: TaskSuite, split: Split) -> dict[str, dict[int, float]]:
    from brew_data.sources.synthetic.reachability import logistic_scores

    out = tables.members.filter(tables.members["opted_out"])["member_id"].combine_chunks()
    times = micros(tables.interactions).to_numpy()
    takes_part = pc.invert(pc.is_in(tables.interactions["member_id"], value_set=out)).to_numpy()
    _, scores = logistic_scores(tables, (times <= split.train_until) & takes_part)
    later = np.flatnonzero(times > split.benchmark_after)
    ids = tables.interactions["interaction_id"].to_numpy()
    found = dict(zip(ids[later].tolist(), scores[later].tolist(), strict=True))
    return {task.name: found for task in suite.tasks if task.follows_surface}


def _of_economic_graph(source_config: Mapping[str, Any], suite: TaskSuite, split: Split) -> Baselines:
    from brew_data.sources.economic_graph.ablation import score_tasks
    from brew_data.sources.economic_graph.config import EconomicGraphConfig

    found: Baselines = {"profile": {}, "matches": {}}
    for scores in score_tasks(EconomicGraphConfig(**source_config), suite, split, list(found)):
        ids = scores.id_N.tolist()
        for name, by_task in found.items():
            by_task[scores.task.name] = dict(zip(ids, scores.score_N[name].tolist(), strict=True))
    return found

"""The baselines of a report, chosen by name."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.prompts.suite import TaskSuite
from brew_data.schema import Tables, micros
from brew_data.split import Split
from brew_eval.baselines.fact_regressions import fit_fact_regressions
from brew_eval.baselines.scoring import BASELINES, BLEND, score_baselines
from brew_eval.scored_rows import ScoredRows
from brew_platform.errors import UserError

__all__ = ["DEFAULT", "FACTS", "NAMES", "REFERENCE", "check_baselines", "score_by_name"]

REFERENCE = "entity_mean"  # `baseline_auc`, `gain` and `gap_closed` of a version are against it
FACTS = "facts"  # regressions on the facts behind generated data (`fit_fact_regressions`): fact_NAME
NAMES = (*BASELINES, "blend", FACTS)
DEFAULT = ("popularity", REFERENCE, "biases", FACTS)


def check_baselines(names: Sequence[str]) -> None:
    """Check the names of baselines, and that what they need is installed.

    Raises:
        UserError: A name is unknown, is there twice, or LightGBM is not installed.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise UserError(f"there is no baseline {unknown[0]!r}. Use some of {', '.join(NAMES)}.")
    if len(set(names)) < len(names):
        raise UserError(f"a baseline is named twice in {', '.join(names)}. Name each once.")
    if {"lightgbm", "blend"} & set(names) and find_spec("lightgbm") is None:
        raise UserError("LightGBM is not installed. Run `pip install lightgbm`, or leave lightgbm and blend out.")


def score_by_name(
    names: Sequence[str],
    rows: ScoredRows,
    tables: Tables,
    suite: TaskSuite,
    split: Split,
    *,
    source: str = "",
    source_config: Mapping[str, Any] | None = None,
) -> Iterator[ScoredRows]:
    """Fit baselines on the interactions before the cut, and score rows.

    Tasks without an interaction before the cut have no baseline.

    Args:
        names: Some of `NAMES`; `blend` also yields its parts.
        rows: Rows of a model.
        tables: The data that the rows come from.
        suite: Its tasks.
        split: The cut.
        source: Name of the source of the data, for `FACTS`.
        source_config: Its settings; None: not known.

    Raises:
        UserError: As `check_baselines` and `score_baselines`.
    """
    check_baselines(names)
    out = tables.members.filter(tables.members["opted_out"])["member_id"].combine_chunks()
    early = tables.interactions.filter(pa.array(micros(tables.interactions).to_numpy() <= split.train_until))
    early = early.filter(pc.invert(pc.is_in(early["member_id"], value_set=out)))
    surfaces = set(pc.unique(early["surface"]).to_pylist())
    target = rows.of_tasks([task for task in rows.tasks if suite.task(task).surface in surfaces])
    chosen = [name for name in BASELINES if name in names or ("blend" in names and name in BLEND)]
    makers: dict[str, Callable[[], Any]] = {name: BASELINES[name] for name in chosen}
    if makers and len(target):
        for name, [scored] in score_baselines(tables, suite, split, [target], makers):
            if name in makers or "blend" in names:
                yield scored
    if FACTS in names:
        found = fit_fact_regressions(source, source_config or {}, tables, suite, split)
        for name, by_task in found.items():
            if tasks := [task for task in rows.tasks if task in by_task]:
                yield _of_facts(rows.of_tasks(tasks), name, by_task)


def _of_facts(rows: ScoredRows, name: str, by_task: Mapping[str, Mapping[int, float]]) -> ScoredRows:
    pairs = zip(rows.table["task"].to_pylist(), rows.table["row_id"].to_pylist(), strict=True)
    return rows.with_scores(
        np.array([by_task[task].get(row, np.nan) for task, row in pairs], dtype=np.float64), baseline=f"fact_{name}"
    )

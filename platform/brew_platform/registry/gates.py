"""Gates of a promotion: bounds on the figures of a version's benchmark, and their judgement. Pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from brew_platform.errors import ConfigError, UserError
from brew_platform.settings import Range, Settings

__all__ = ["AGAINST", "BENCHMARK", "CHANGE", "Gate", "GateOutcome", "Measured", "ReleaseConfig", "find_figure", "judge"]

BENCHMARK = "benchmark"  # key of the lineage: which rows the figures were measured on
CHANGE = "change"  # key of a task's figures: those of a paired comparison with another version
AGAINST = "against"  # key beside them: the number of that version


@dataclass(frozen=True, kw_only=True)
class Gate(Settings):
    """A bound on one figure of a version's benchmark. At least one of the three thresholds is set.

    A figure that was not measured fails its gate, as does a figure that is not a finite number.

    Raises:
        ConfigError: The figure is blank, a threshold is not finite, or there is no threshold.
    """

    figure: str  # path in the version's metrics, e.g. post_like.auc
    at_least: Annotated[float, Range()] | None = None  # smallest value that passes
    at_most: Annotated[float, Range()] | None = None  # largest value that passes
    # Smallest change that passes, against the version that the alias points to, measured on the same rows. While the
    # alias points to no version, only the other two thresholds are judged, so that one of them must be set.
    min_change: Annotated[float, Range()] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(part.strip() for part in self.figure.split(".")):
            raise ConfigError(
                f"a gate has the figure {self.figure!r}; give a path in the benchmark's report, e.g. post_like.auc."
            )
        if not self.thresholds:
            raise ConfigError(
                f"the gate of {self.figure} has no threshold, so that every value would pass. Set at_least, at_most or "
                f"min_change."
            )

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds that are set, by name."""
        values = {name: getattr(self, name) for name in ("at_least", "at_most", "min_change")}
        return {name: value for name, value in values.items() if value is not None}

    def document(self) -> dict[str, Any]:
        """The gate as JSON: the figure, and the thresholds that are set."""
        return {"figure": self.figure, **self.thresholds}


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig(Settings):
    """The conditions of a promotion. `brew360 registry promote` judges them."""

    gates: list[Gate] = field(default_factory=list)  # all must pass; without gates a promotion must be forced


@dataclass(frozen=True)
class GateOutcome:
    """The judgement of one threshold of a gate.

    Raises:
        UserError: `passed` is set without a finite value.
    """

    name: str  # of the figure
    value: float | None  # of the figure, or its change for `min_change`; None: not measured
    threshold: float
    passed: bool
    rule: str = "at_least"  # which threshold; events of earlier releases have no other
    reason: str = ""  # why there is no value

    def __post_init__(self) -> None:
        if self.passed and (self.value is None or not math.isfinite(self.value)):
            raise UserError(
                f"gate {self.name} passed with value {self.value}: only a finite value can pass. Measure it."
            )
        if self.value is not None and not math.isfinite(self.value):
            object.__setattr__(self, "value", None)  # JSON has no NaN

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "failed"
        measured = "change" if self.rule == "min_change" else "value"
        value = self.reason or "not measured" if self.value is None else f"{measured} {self.value:.6g}"
        threshold = "threshold" if self.rule == "at_least" else self.rule
        return f"gate {self.name} {verdict} ({value}, {threshold} {self.threshold:.6g})"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of a version, and where they come from."""

    number: int  # of the version
    metrics: Mapping[str, Any]
    lineage: Mapping[str, Any]


def judge(gates: Sequence[Gate], version: Measured, replaced: Measured | None) -> tuple[GateOutcome, ...]:
    """Judge every threshold of `gates`.

    A figure of a comparison (TASK.change.FIGURE) fails unless the other version is the one that the alias points to.

    Args:
        gates: Bounds on the figures of `version`.
        version: The version to promote.
        replaced: The version that the alias points to; None: none.
    """
    outcomes = []
    for gate in gates:
        value = find_figure(version.metrics, gate.figure)
        stale = "" if value is None else _stale(gate.figure, version, replaced)
        for rule, threshold in gate.thresholds.items():
            if stale:
                outcomes.append(GateOutcome(gate.figure, None, threshold, False, rule, stale))
            elif rule != "min_change":
                passed = value is not None and (value >= threshold if rule == "at_least" else value <= threshold)
                outcomes.append(GateOutcome(gate.figure, value, threshold, passed, rule))
            elif replaced is not None or len(gate.thresholds) == 1:
                change, reason = _change(gate.figure, value, version, replaced)
                passed = change is not None and change >= threshold
                outcomes.append(GateOutcome(gate.figure, change, threshold, passed, rule, reason))
    return tuple(outcomes)


def find_figure(metrics: Mapping[str, Any], path: str) -> float | None:
    """Return the finite number at a dotted path of nested mappings; None if there is none."""
    value: Any = metrics
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _stale(figure: str, version: Measured, replaced: Measured | None) -> str:
    """Why a figure of a comparison says nothing about the replaced version; empty if it does, or compares nothing."""
    task, compares, _ = figure.partition(f".{CHANGE}.")
    if not compares:
        return ""
    if replaced is None:
        return "no version to compare with"
    against = find_figure(version.metrics, f"{task}.{CHANGE}.{AGAINST}")
    if against == replaced.number:
        return ""
    compared = "the compared version was not recorded" if against is None else f"compared with version {against:g}"
    return (
        f"{compared}, but the alias points to version {replaced.number}: compare with it on the same rows, and publish "
        f"again with these figures"
    )


def _change(figure: str, value: float | None, version: Measured, replaced: Measured | None) -> tuple[float | None, str]:
    """The figure's change, or None and the reason."""
    if replaced is None:
        return None, "no version to compare with"
    if value is None:
        return None, ""
    before = find_figure(replaced.metrics, figure)
    if before is None:
        return None, f"not measured for version {replaced.number}"
    rows = [
        benchmark.get("rows_digest") if isinstance(benchmark, Mapping) else None
        for benchmark in (version.lineage.get(BENCHMARK), replaced.lineage.get(BENCHMARK))
    ]
    if None in rows or rows[0] != rows[1]:
        return None, f"version {replaced.number} was not measured on the same rows"
    return value - before, ""

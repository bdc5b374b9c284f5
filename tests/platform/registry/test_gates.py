"""Gates: their settings, and their judgement on figures that are there, absent, or not numbers."""

from typing import Any

import pytest

from brew_platform.config import load_config
from brew_platform.errors import ConfigError, UserError
from brew_platform.registry.gates import Gate, GateOutcome, Measured, ReleaseConfig, judge


def outcomes(gate: Gate, metrics: Any, before: Any = None, rows: tuple[Any, Any] = ("r", "r")) -> list[Any]:
    version = Measured(number=2, metrics=metrics, lineage={"benchmark": {"rows_digest": rows[0]}})
    replaced = Measured(number=1, metrics=before, lineage={"benchmark": {"rows_digest": rows[1]}})
    judged = judge([gate], version, None if before is None else replaced)
    return [(outcome.rule, outcome.value, outcome.passed) for outcome in judged]


@pytest.mark.parametrize(
    ("value", "passed"),
    [(0.5, True), (0.51, True), (1, True), (0.49, False), (float("nan"), False), (float("inf"), False), (None, False),
     (True, False), ("0.9", False), ([0.9], False), (10**400, False)],
)  # fmt: skip
def test_a_figure_passes_from_its_threshold_on_and_only_as_a_finite_number(value: Any, passed: bool) -> None:
    [(rule, _, judged)] = outcomes(Gate(figure="like.auc", at_least=0.5), {"like": {"auc": value}})
    assert (rule, judged) == ("at_least", passed)


@pytest.mark.parametrize("metrics", [{}, {"like": {}}, {"like": 0.9}, {"auc": 0.9}, {"like": None}])
def test_a_figure_that_was_not_measured_fails(metrics: Any) -> None:
    assert outcomes(Gate(figure="like.auc", at_least=0.5), metrics) == [("at_least", None, False)]
    assert outcomes(Gate(figure="like.auc", at_most=0.5), metrics) == [("at_most", None, False)]
    assert outcomes(Gate(figure="like.auc", min_change=-1.0), metrics, {"like": {"auc": 0.5}}) == [
        ("min_change", None, False)
    ]


def test_every_threshold_of_a_gate_is_judged() -> None:
    gate = Gate(figure="like.loss", at_least=0.1, at_most=0.5, min_change=-0.25)
    assert outcomes(gate, {"like": {"loss": 0.5}}, {"like": {"loss": 0.75}}) == [
        ("at_least", 0.5, True), ("at_most", 0.5, True), ("min_change", -0.25, True),
    ]  # fmt: skip
    assert outcomes(gate, {"like": {"loss": 0.75}}, {"like": {"loss": 1.0625}})[1:] == [
        ("at_most", 0.75, False), ("min_change", -0.3125, False),
    ]  # fmt: skip


def test_a_change_needs_a_version_that_was_measured_on_the_same_rows() -> None:
    alone, beside = Gate(figure="a.b", min_change=-1.0), Gate(figure="a.b", min_change=-1.0, at_least=0.0)
    assert outcomes(alone, {"a": {"b": 1.0}}) == [("min_change", None, False)]
    assert outcomes(beside, {"a": {"b": 1.0}}) == [("at_least", 1.0, True)]
    assert outcomes(alone, {"a": {"b": 1.0}}, {"a": {}}) == [("min_change", None, False)]
    for rows in [("r", "s"), (None, None), ("r", None)]:
        assert outcomes(alone, {"a": {"b": 1.0}}, {"a": {"b": 1.0}}, rows) == [("min_change", None, False)]


@pytest.mark.parametrize(
    ("against", "alias", "reason"),
    [
        (3, 3, None),
        (3, 4, "compared with version 3, but the alias points to version 4: compare with it"),
        (None, 3, "the compared version was not recorded, but the alias points to version 3"),
        (3, None, "no version to compare with"),
    ],
)
def test_a_comparison_counts_only_with_the_version_that_the_alias_points_to(
    against: int | None, alias: int | None, reason: str | None
) -> None:
    figures = {"like": {"auc": 0.7, "change": {"auc_low": 0.01, "against": against}}}
    version = Measured(number=5, metrics=figures, lineage={})
    replaced = None if alias is None else Measured(number=alias, metrics={}, lineage={})
    gates = [Gate(figure="like.change.auc_low", at_least=0.0), Gate(figure="like.auc", at_least=0.5)]
    change, plain = judge(gates, version, replaced)
    assert plain.passed
    assert change.passed is (reason is None)
    assert (reason or "value 0.01") in str(change)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"figure": "", "at_least": 0.5}, "give a path in the benchmark's report"),
        ({"figure": "like..auc", "at_least": 0.5}, "give a path in the benchmark's report"),
        ({"figure": "like.auc"}, "has no threshold, so that every value would pass"),
        ({"figure": "like.auc", "at_least": float("nan")}, "^at_least is nan; give a finite number"),
        ({"figure": "like.auc", "min_change": float("-inf")}, "^min_change is -inf; give a finite number"),
    ],
)
def test_a_gate_that_could_not_fail_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Gate(**fields)


def test_gates_are_read_from_a_recipe() -> None:
    assert load_config(ReleaseConfig, {"gates": [{"figure": "like.auc", "at_least": 0.5}]}).gates == [
        Gate(figure="like.auc", at_least=0.5)
    ]
    with pytest.raises(ConfigError, match=r"unknown key gates\[0\]\.atleast in .*Did you mean gates\[0\]\.at_least"):
        load_config(ReleaseConfig, {"gates": [{"figure": "like.auc", "atleast": 0.5}]})


def test_a_gate_cannot_pass_unmeasured() -> None:
    with pytest.raises(
        UserError, match=r"gate auc passed with value None: only a finite value can pass\. Measure it\."
    ):
        GateOutcome("auc", None, 0.5, True)
    assert GateOutcome("auc", float("nan"), 0.5, False).value is None

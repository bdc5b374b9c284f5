"""The release gates of the demo: passing, failing and missing figures."""

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


def outcomes(
    *, min_gap_closed: float | None = None, min_gain: float | None = None, **figures: Any
) -> list[tuple[str, bool]]:
    from brew_cluster.jobs.demo import _gates  # Ray Serve warns when it is imported

    config: Any = SimpleNamespace(release=SimpleNamespace(min_gap_closed=min_gap_closed, min_gain=min_gain))
    task: Any = SimpleNamespace(**{"gap_closed": None, "auc": None, "baseline_auc": None} | figures)
    return [(gate.name, gate.passed) for gate in _gates(config, {"like": task})]


@pytest.mark.parametrize(("gap", "passed"), [(0.5, True), (0.49, False), (float("nan"), False)])
def test_gap_closed_passes_from_its_threshold_on(gap: float, passed: bool) -> None:
    assert outcomes(min_gap_closed=0.5, gap_closed=gap) == [("like.gap_closed", passed)]


@pytest.mark.parametrize(("auc", "passed"), [(0.75, True), (0.625, False)])
def test_gain_is_compared_with_the_baseline(auc: float, passed: bool) -> None:
    assert outcomes(min_gain=0.25, auc=auc, baseline_auc=0.5) == [("like.gain", passed)]


def test_missing_figure_or_threshold_makes_no_gate() -> None:
    assert outcomes(min_gap_closed=0.5, min_gain=0.1) == []
    assert outcomes(min_gain=0.1, auc=0.9) == []
    assert outcomes(gap_closed=0.9, auc=0.9, baseline_auc=0.5) == []

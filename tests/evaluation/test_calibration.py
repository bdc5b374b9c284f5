"""Calibration maps: the fit, the order, the periods, and the file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from brew_eval.calibration import calibrate, fit_calibration
from brew_eval.scored_rows import ScoredRows
from brew_platform.calibration_map import BetaMap, CalibrationMap
from brew_platform.errors import DataError, UserError

from .rows import DAY, columns, scored

CUT = DAY * 21_000


def validation(rows: int = 4_000, *, a: float = 2.0, b: float = 0.5, c: float = -1.0, **changes: Any) -> ScoredRows:
    """Return rows whose true probability is a beta map of the score."""
    data = columns(rows, seed=1)
    data["score"] = data["best"]
    truth = BetaMap(a=a, b=b, c=c).apply(data["score"])
    return scored({**data, "label": np.random.default_rng(2).uniform(size=rows) < truth, **changes})


def fitted(**changes: Any) -> CalibrationMap:
    return fit_calibration(validation(**changes), test_from=CUT)


def test_the_fit_finds_the_map_that_drew_the_labels() -> None:
    beta = fitted(rows=8_000).tasks["like"]
    assert (beta.a, beta.b, beta.c) == pytest.approx((2.0, 0.5, -1.0), abs=0.25)


def test_the_fit_is_that_of_a_logistic_regression() -> None:
    rows = validation(2_000)
    p = rows.column("score")
    features = np.stack([np.log(p), -np.log1p(-p)], axis=1)
    model = LogisticRegression(C=np.inf, tol=1e-10).fit(features, rows.column("label"))
    beta = fit_calibration(rows, test_from=CUT).tasks["like"]
    assert (beta.a, beta.b, beta.c) == pytest.approx((*model.coef_[0], model.intercept_[0]), rel=1e-3)


@given(
    st.floats(0, 5),
    st.floats(0.01, 5),
    st.floats(-5, 5),
    st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_a_map_keeps_the_order(a: float, b: float, c: float, scores: list[float]) -> None:
    calibrated = BetaMap(a=a, b=b, c=c).apply(np.sort(scores))
    assert np.all(np.diff(calibrated) >= 0)
    assert np.all((calibrated >= 0) & (calibrated <= 1))


def test_calibrated_rows_name_the_map_and_keep_what_has_no_map() -> None:
    calibration = fitted()
    data = columns(10)
    later = np.asarray(data["time"]) + CUT
    rows = scored({**data, "time": later, "score": [0.4] * 8 + [None, float("nan")]})
    result = calibrate(rows, calibration)
    assert result.column("score")[:8] == pytest.approx(calibration.apply("like", [0.4])[0])
    assert np.isnan(result.column("score")[8:]).all()
    assert result.info.calibration == calibration.digest
    with pytest.raises(UserError, match="calibrated already"):
        calibrate(result, calibration)
    other = scored({**data, "time": later, "task": ["share"] * 10})
    assert np.array_equal(calibrate(other, calibration).column("score"), other.column("score"))


def test_test_rows_are_refused() -> None:
    rows = validation()
    last = int(rows.column("time").max())
    with pytest.raises(UserError, match="1 of 4,000 validation rows lie in the test period"):
        fit_calibration(rows, test_from=last)
    with pytest.raises(UserError, match="are not later"):
        calibrate(rows, fit_calibration(rows, test_from=last + 1))


def test_tasks_without_a_map_have_a_reason() -> None:
    rare = fitted(label=np.arange(4_000) < 49)
    assert "only 49" in rare.unfitted["like"]
    falling = fitted(label=columns(4_000, seed=1)["best"] < 0.5)
    assert "do not rise" in falling.unfitted["like"]
    with pytest.raises(UserError, match="do not rise"):
        falling.apply("like", [0.5])
    with pytest.raises(UserError, match="'share': it had no validation rows"):
        falling.apply("share", [0.5])


def test_scores_of_another_model_or_that_are_not_probabilities_are_refused() -> None:
    calibration = fitted()
    data = {**columns(10), "time": np.full(10, CUT * 2)}
    for changes in ({"model": "other"}, {"baseline": "popularity"}):
        with pytest.raises(UserError, match="is of model"):
            calibrate(scored(data, **changes), calibration)
    with pytest.raises(UserError, match="not probabilities"):
        fit_calibration(scored({**data, "score": np.arange(10.0)}), test_from=CUT * 3)
    with pytest.raises(UserError, match="no validation rows"):
        fit_calibration(scored(columns(5)).select(np.zeros(5, bool)), test_from=CUT)
    with pytest.raises(UserError, match="from 0 to 1"):
        calibration.apply("like", [np.nan])


def test_a_file_keeps_the_map_and_its_digest(tmp_path: Path) -> None:
    calibration = fitted()
    path = tmp_path / "calibration.json"
    calibration.write(path)
    assert CalibrationMap.read(path) == calibration
    assert CalibrationMap.read(path).digest == calibration.digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 2}, "format_version 2"),
        ({"fitted_until": 0}, "was changed"),
        ({"tasks": {"like": {"a": -1, "b": 1, "c": 0}}}, "does not rise"),
        ({"tasks": {"like": {"a": 0, "b": 0, "c": 0}}}, "same value"),
        ({"tasks": []}, "not a calibration map"),
        ({"extra": 1}, "not a calibration map"),
    ],
)
def test_a_damaged_file_is_refused(change: dict[str, Any], words: str) -> None:
    document = json.loads(fitted(rows=500).to_json())
    with pytest.raises(DataError, match=words):
        CalibrationMap.from_json(json.dumps({**document, **change}))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        CalibrationMap.read(tmp_path / "missing.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff")
    with pytest.raises(DataError, match="cannot be read"):
        CalibrationMap.read(tmp_path / "bytes.json")

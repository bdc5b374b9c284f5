"""Fits calibration maps on validation rows, and applies them to later scored rows."""

import numpy as np
from scipy.optimize import minimize

from brew_eval.scored_rows import ScoredRows
from brew_platform.calibration_map import BetaMap, CalibrationMap
from brew_platform.errors import UserError

__all__ = ["calibrate", "fit_calibration"]

_EPSILON = 1e-12
_FEWEST = 50  # rows of the rarer label; below it a map of three coefficients is mostly noise


def fit_calibration(validation: ScoredRows, *, test_from: int) -> CalibrationMap:
    """Fit one beta map per task by maximum likelihood, with coefficients that are not negative.

    Args:
        validation: Rows of a model that end before the test period.
        test_from: Start of the test period, microseconds since 1970. Fitting on test rows would make the calibration
            error of the report meaningless.

    Returns:
        The map. `unfitted` has the tasks with fewer than 50 positive or 50 negative rows, and those whose scores do not
        rise with the labels.

    Raises:
        UserError: A row is not before the test period, a score is not a probability, or there are no rows.
    """
    if not len(validation):
        raise UserError("there are no validation rows to fit a calibration map on. Score rows before the test period.")
    time_N, label_N, score_N = (validation.column(name) for name in ("time", "label", "score"))
    if late := int((time_N >= test_from).sum()):
        raise UserError(
            f"{late:,} of {len(validation):,} validation rows lie in the test period, which starts at {test_from} "
            f"microseconds since 1970. Fit the calibration map on rows that end before it."
        )
    usable_N = np.isfinite(score_N) & np.isfinite(label_N)
    if np.any((score_N[usable_N] < 0) | (score_N[usable_N] > 1)):
        raise UserError(f"the scores of {validation.info.name} are not probabilities, so they have no calibration map.")
    task_N, names = validation.codes("task")
    tasks, unfitted = {}, {}
    for number, task in enumerate(names):
        rows_N = usable_N & (task_N == number)
        label, score = label_N[rows_N], score_N[rows_N]
        rarer = int(min(label.sum(), len(label) - label.sum()))
        if rarer < _FEWEST:
            unfitted[task] = f"only {rarer} validation rows have the rarer label, and {_FEWEST} are needed"
            continue
        a, b, c = _fit(label, score)
        if a + b > 0:
            tasks[task] = BetaMap(a=a, b=b, c=c)
        else:
            unfitted[task] = "the scores do not rise with the labels"
    return CalibrationMap(
        model=validation.info.model,
        tasks=tasks,
        unfitted=unfitted,
        fitted_from=int(time_N.min()),
        fitted_until=int(time_N.max()),
        rows_digest=validation.digest,
    )


def calibrate(rows: ScoredRows, calibration: CalibrationMap) -> ScoredRows:
    """Return rows with calibrated scores. Rows of tasks without a map, and scores that are not finite, are unchanged.

    Args:
        rows: Of the model that the map was fitted for; all later than the rows of the fit.
        calibration: The map.

    Raises:
        UserError: The map is of another model, a row is not later than the rows of the fit, or the rows are calibrated.
    """
    if rows.info.model != calibration.model or rows.info.baseline is not None:
        raise UserError(f"the calibration map is of {calibration.model}, not of {rows.info.name}. Fit another.")
    if rows.info.calibration is not None:
        raise UserError(f"the scores of {rows.info.name} are calibrated already. Pass the raw scores.")
    if early := int((rows.column("time") <= calibration.fitted_until).sum()):
        raise UserError(
            f"{early:,} of {len(rows):,} rows are not later than the rows that the calibration map was fitted on "
            f"(until {calibration.fitted_until} microseconds since 1970), so their calibration error would be too "
            f"low. Fit it on earlier rows."
        )
    task_N, names = rows.codes("task")
    score_N = rows.column("score").copy()
    for number, task in enumerate(names):
        if task in calibration.tasks:
            rows_N = (task_N == number) & np.isfinite(score_N)
            score_N[rows_N] = calibration.apply(task, score_N[rows_N])
    return rows.with_scores(score_N, calibration=calibration.digest)


def _fit(label_N: np.ndarray, score_N: np.ndarray) -> tuple[float, float, float]:
    """Return a >= 0, b >= 0 and c that maximise the likelihood; the problem is convex."""
    p_N = np.clip(score_N, _EPSILON, 1 - _EPSILON)
    features_N3 = np.stack([np.log(p_N), -np.log1p(-p_N), np.ones(len(p_N))], axis=1)

    def loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        logit_N = features_N3 @ coefficients
        value = np.mean(np.logaddexp(0, logit_N) - label_N * logit_N)
        probability_N = 1 / (1 + np.exp(-np.clip(logit_N, -500, 500)))
        return float(value), (probability_N - label_N) @ features_N3 / len(label_N)

    bounds = [(0, None), (0, None), (None, None)]
    start = np.array([1.0, 1.0, 0.0])
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-8})
    a, b, c = (float(value) for value in fitted.x)
    return a, b, c

"""Applies the calibration map of a version to scores, where a request asks for calibrated probabilities."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from brew_data.prompts.tasks import TaskSpec
from brew_platform.calibration_map import CalibrationMap
from brew_serve.errors import Uncalibrated
from brew_serve.ranking.scoring import RankedCandidate, Scored

__all__ = ["calibrate", "require_calibration"]

ScoredT = TypeVar("ScoredT", Scored, RankedCandidate)


def require_calibration(calibration: CalibrationMap | None, task: TaskSpec, version: int) -> CalibrationMap:
    """Return the map of a version, which has a map of the task.

    Args:
        calibration: Of the version; None if it has none.
        task: The task of a request for calibrated probabilities.
        version: Number of the version, for the message.

    Raises:
        Uncalibrated: The version has no map, or its map has none of the task.
    """
    remedy = "Leave out `calibrated` to get its raw probabilities, or promote a version with such a map."
    if calibration is None:
        raise Uncalibrated(f"version {version} has no calibration map, so it has no calibrated probabilities. {remedy}")
    if task.name not in calibration.tasks:
        reason = calibration.unfitted.get(task.name, "it had no validation rows")
        raise Uncalibrated(
            f"the calibration map of version {version} has no map of the task {task.name!r}: {reason}. {remedy}"
        )
    return calibration


def calibrate(candidates: Sequence[ScoredT], task: TaskSpec, calibration: CalibrationMap) -> list[ScoredT]:
    """Return candidates with calibrated scores and probabilities, in the same order.

    The score is mapped. The probabilities of the positive outcomes keep their ratios and sum to the new score; those
    of the other outcomes keep theirs and sum to the rest. The map rises everywhere, so the order of the candidates by
    score does not change.

    Args:
        candidates: With raw scores.
        task: Their task, which the map contains.
        calibration: The map of the version that scored them.
    """
    scores = calibration.apply(task.name, [candidate.score for candidate in candidates]).tolist()
    return [
        replace(candidate, score=score, probabilities=_rescaled(candidate.probabilities, task.positive, score))
        for candidate, score in zip(candidates, scores, strict=True)
    ]


def _rescaled(probabilities: dict[str, float], positive: Sequence[str], score: float) -> dict[str, float]:
    """Return probabilities whose positive ones sum to the score, and the others to 1 - score."""
    new = {}
    for names, share in (
        ([name for name in probabilities if name in positive], score),
        ([name for name in probabilities if name not in positive], 1 - score),
    ):
        total = sum(probabilities[name] for name in names)
        for name in names:
            ratio = probabilities[name] / total if total else 1 / len(names)
            new[name] = min(1.0, ratio * share)
    return {name: new[name] for name in probabilities}

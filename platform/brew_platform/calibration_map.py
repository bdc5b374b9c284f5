"""Calibration maps: monotone functions, by task, from a model's score to a calibrated probability.

`brew_eval.calibration` fits them on validation rows. A map is a file that ships with a version; serving can apply it
without the evaluation.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brew_platform.errors import DataError, UserError
from brew_platform.files import replace_atomically

__all__ = ["CALIBRATION_FILE", "BetaMap", "CalibrationMap"]

CALIBRATION_FILE = "calibration.json"  # name in a version's folder
FORMAT_VERSION = 1
_EPSILON = 1e-12


@dataclass(frozen=True, kw_only=True)
class BetaMap:
    """The map sigmoid(a ln p - b ln(1 - p) + c) of beta calibration (Kull, Silva Filho, Flach 2017).

    It rises everywhere, because a and b are not negative and not both 0, so it keeps the order of the candidates. The
    identity is a = b = 1, c = 0; with a = b it is Platt scaling of the logit.

    Raises:
        DataError: A coefficient is not finite, a or b is negative, or both are 0.
    """

    a: float
    b: float
    c: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in (self.a, self.b, self.c)) or min(self.a, self.b) < 0:
            raise DataError(f"{self} does not rise: a and b must be finite and not negative. Fit it again.")
        if not self.a and not self.b:
            raise DataError(f"{self} has the same value for every score. Fit it on rows of both labels.")

    def apply(self, probability_N: ArrayLike) -> NDArray[np.float64]:
        """Return the calibrated probabilities, float64, shape (N,).

        Raises:
            UserError: A value is not in [0, 1].
        """
        p_N = np.asarray(probability_N, dtype=np.float64)
        if not np.all((p_N >= 0) & (p_N <= 1)):
            raise UserError("a calibration map needs probabilities from 0 to 1. Leave out rows without a valid score.")
        p_N = np.clip(p_N, _EPSILON, 1 - _EPSILON)
        logit_N = self.a * np.log(p_N) - self.b * np.log1p(-p_N) + self.c
        return 1 / (1 + np.exp(-np.clip(logit_N, -500, 500)))


@dataclass(frozen=True, kw_only=True)
class CalibrationMap:
    """The maps of a model's tasks, and the rows that they were fitted on."""

    model: str
    tasks: Mapping[str, BetaMap]
    unfitted: Mapping[str, str]  # reason, by task that has no map
    fitted_from: int  # time of the first validation row, microseconds since 1970
    fitted_until: int  # time of the last validation row
    rows_digest: str  # `ScoredRows.digest` of the validation rows

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def apply(self, task: str, probability_N: ArrayLike) -> NDArray[np.float64]:
        """Return the calibrated probabilities of a task, float64, shape (N,).

        Raises:
            UserError: The task has no map, or a value is not in [0, 1].
        """
        if task not in self.tasks:
            reason = self.unfitted.get(task, "it had no validation rows")
            raise UserError(
                f"the calibration map of {self.model} has no map of the task {task!r}: {reason}. Use its raw scores, "
                f"or fit the map on rows of the task."
            )
        return self.tasks[task].apply(probability_N)

    def to_json(self) -> str:
        """Return the map as JSON, with its digest."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self), "digest": self.digest}, indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> "CalibrationMap":
        """Parse and check a map.

        Raises:
            DataError: The text is not a map, is of another release, or does not have its digest.
        """
        try:
            document: dict[str, Any] = json.loads(text)
            version, digest = document.pop("format_version"), document.pop("digest")
            tasks = {str(task): BetaMap(**values) for task, values in document.pop("tasks").items()}
            found = CalibrationMap(tasks=tasks, **document)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"this is not a calibration map ({error!r}). Fit it again.") from error
        if version != FORMAT_VERSION:
            raise DataError(
                f"the calibration map has format_version {version!r}, but this release reads {FORMAT_VERSION} only. "
                f"Fit it again."
            )
        if found.digest != digest:
            raise DataError(
                f"the calibration map of {found.model} was changed: its digest is {found.digest[:12]}, but it names "
                f"{str(digest)[:12]}. Fit it again."
            )
        return found

    def write(self, path: Path) -> None:
        """Write the map, whole or not at all."""
        replace_atomically(path, self.to_json())

    @staticmethod
    def read(path: Path) -> "CalibrationMap":
        """Read a file of `write`.

        Raises:
            DataError: The file cannot be read, or is not a valid map.
        """
        try:
            return CalibrationMap.from_json(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the calibration map {path} cannot be read ({error}). Fit it again.") from error

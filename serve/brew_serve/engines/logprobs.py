"""The check of every log-probability that leaves an engine, before a score or a response is computed from it."""

import math
from collections.abc import Iterable

from brew_platform.errors import BrewError

__all__ = ["InvalidOutput", "require_logprobs"]

_ROUNDING = 1e-4  # by which a log-probability may exceed 0


class InvalidOutput(BrewError):
    """The model computed a number that is not a log-probability, such as NaN."""


def require_logprobs(values: Iterable[float]) -> None:
    """Check natural log-probabilities that an engine returned.

    Raises:
        InvalidOutput: A number is not finite, or greater than 0 by more than rounding.
    """
    for value in values:
        if not -math.inf < value <= _ROUNDING:  # false for NaN
            raise InvalidOutput(
                f"the model computed {value} where a log-probability is required, which is finite and at most 0. Its "
                f"weights are damaged, or its numbers overflow in the engine's dtype."
            )

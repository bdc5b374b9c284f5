"""Ranges of the planner's inputs and results, and the descriptions of its quantities."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from brew_platform.errors import UserError

__all__ = ["Bounds", "Quantity", "span"]


@dataclass(frozen=True)
class Bounds:
    """The lowest and the highest plausible value; equal if the value is known exactly."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g}..{self.high:g}"

    @classmethod
    def exact(cls, value: float) -> "Bounds":
        """Return the range of a known value."""
        return cls(value, value)

    @classmethod
    def parse(cls, name: str, text: str, *, most: float = math.inf, unit: float = 1.0) -> "Bounds":
        """Return the range in a text such as `0.25..0.49` or `0.4`.

        Args:
            name: What the text sets, for the message.
            text: One or two positive numbers.
            most: The largest number.
            unit: Factor of the numbers, such as 1e-3 for milliseconds.

        Raises:
            UserError: It is not a range of positive numbers up to `most`.
        """
        try:
            numbers = [float(part) for part in text.split("..")]
        except ValueError:
            numbers = []
        limit = "" if math.isinf(most) else f" up to {most:g}"
        if len(numbers) not in (1, 2) or not all(0 < number <= most and math.isfinite(number) for number in numbers):
            raise UserError(f"{name} is {text!r}; give a positive number{limit}, or a range as in 0.2..0.5.")
        if numbers[0] > numbers[-1]:
            raise UserError(f"{name} is {text!r}, which ends below its start; write the smaller number first.")
        return cls(numbers[0] * unit, numbers[-1] * unit)


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A figure of a plan: how it is computed, and from which publication or measurement."""

    name: str
    unit: str  # bytes, s, tokens/s, GPU-hours ...; "share" for a ratio, "" for a number
    formula: str  # with its inputs, in the names of other quantities
    source: str


def span(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, Bounds]:
    """Return the range of each figure over two sets of assumptions."""
    return {name: Bounds(min(first[name], second[name]), max(first[name], second[name])) for name in first}

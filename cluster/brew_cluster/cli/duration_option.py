"""Options that take a duration, such as 7d."""

import re
from datetime import timedelta

import typer

__all__ = ["parse_duration"]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> timedelta:
    """Parse a number with a unit: s, m, h, d or w, as in 30m and 7d.

    Raises:
        typer.BadParameter: The text is not a duration, or longer than 10 years.
    """
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip())
    if match:
        duration = timedelta(**{_UNITS[match[2]]: int(match[1])})
        if duration <= timedelta(days=3_653):
            return duration
    raise typer.BadParameter(f"{text!r} is not a duration; give a number with s, m, h, d or w, at most 10 years: 7d")

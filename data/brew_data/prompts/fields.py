"""Converts the field values of records to the text that templates show.

Tables, HTTP requests, batch and nearline all use `field_values`, so the same record gives the same prompt everywhere.
Identifiers of persons in text, which would be personal data in a prompt, are removed (`brew_data.privacy.redaction`).
"""

import math
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from numbers import Integral, Real

from brew_data.privacy.redaction import redact
from brew_platform.errors import UserError

__all__ = ["field_text", "field_values"]

_LARGEST_EXACT = 2**53  # from here on, a float has no fractional digits that are worth showing


def field_values(fields: Mapping[str, object]) -> dict[str, str]:
    """Convert the fields of a record, without identifiers of persons, and leave out the absent ones.

    The result is a fixed point: converting it again changes nothing.

    Args:
        fields: Values by name.

    Raises:
        UserError: As in `field_text`.
    """
    values: dict[str, str] = {}
    for name, value in fields.items():
        text = field_text(name, value)
        if text:
            values[name] = text
    return values


def field_text(name: str, value: object) -> str:
    """Convert one value to a single line of text; the empty string means that the field is absent.

    | value | text |
    |---|---|
    | null, NaN, blank text, an empty list | absent |
    | text | identifiers are removed; runs of white space become one space, because a line break would forge a phrase |
    | true, false | `yes`, `no` |
    | a number | shortest form: `3` for 3.0, `3.5` for 3.50 |
    | a date, a time | ISO 8601: `2026-01-31`, `2026-01-31 12:00:00` |
    | a list | its elements by the rules above, without the absent ones, joined with `, ` |

    Args:
        name: The name of the field, for error messages.
        value: The value from a table or a request.

    Raises:
        UserError: The value is of another type, a list in a list, an infinite number, or text that is not Unicode.
    """
    if isinstance(value, list | tuple):
        elements = filter(None, (_scalar(f"{name}[{i}]", element) for i, element in enumerate(value)))
        return redact(", ".join(elements))  # joined first, as in tables: an identifier can be spread over elements
    return redact(_scalar(name, value))  # also of numbers: an identifier can be an integer


def _scalar(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _line(name, value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Decimal):
        return _number(name, value)
    if isinstance(value, Real):
        return _number(name, float(value))
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, date):
        return value.isoformat()
    raise UserError(
        f"field {name!r} holds a value of type {type(value).__name__}, which a prompt cannot show. Use text, a number, "
        f"a truth value, or a list of them; give each part of a nested value a field of its own."
    )


def _line(name: str, text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON can spell half of a character, as "\\ud83d"
            raise UserError(f"field {name!r} is not valid Unicode ({error}). Write it as UTF-8.") from error
    return " ".join(text.split())


def _number(name: str, value: float | Decimal) -> str:
    if value.is_nan() if isinstance(value, Decimal) else math.isnan(value):
        return ""
    if math.isinf(value):
        raise UserError(f"field {name!r} is {value}, which is not a finite number. Leave it out, or send a finite one.")
    whole = int(value)
    if value == whole and abs(whole) < _LARGEST_EXACT:
        return str(whole)
    return f"{value.normalize():f}" if isinstance(value, Decimal) else repr(value)

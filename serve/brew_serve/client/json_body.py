"""Encodes request bodies as JSON, and refuses every value that JSON cannot represent before anything is sent."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from brew_platform.errors import UserError

__all__ = ["encode_json"]

_MAX_DEPTH = 100
_MAX_DIGITS = 4_300  # of an integer that Python converts
_ADVICE = {
    "datetime": "pass its isoformat(), with a zone",
    "date": "pass its isoformat()",
    "Timestamp": "pass its isoformat(), with a zone",
    "Decimal": "pass a float or text",
    "bytes": "decode it to text",
    "set": "pass a list",
    "frozenset": "pass a list",
}


def encode_json(value: Any) -> bytes:
    """Encode a value as JSON in UTF-8.

    Args:
        value: Text, finite numbers, booleans, None, and lists and mappings of them.

    Raises:
        UserError: A part of the value cannot be represented. The message names its place.
    """
    return json.dumps(_checked(value, []), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _checked(value: Any, path: list[str]) -> Any:
    """Return `value` with plain dicts and lists for mappings and sequences."""
    if len(path) > _MAX_DEPTH:
        raise UserError(
            f"the request is nested more than {_MAX_DEPTH} deep, or contains itself, at {_where(path[:5])}."
        )
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, int):
        if abs(value) >= 10**_MAX_DIGITS:
            raise UserError(f"{_where(path)} is a number of more than {_MAX_DIGITS} digits; pass a smaller one.")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(
                f"{_where(path)} is {value}, which JSON cannot represent; pass a finite number, or leave it out."
            )
        return float(value)
    if isinstance(value, Mapping):
        return {_key(key, path): _checked(part, [*path, str(key)]) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [_checked(part, [*path, str(i)]) for i, part in enumerate(value)]
    kind = type(value).__name__
    advice = _ADVICE.get(kind, "convert it to text, a number, a list or a dict")
    if type(value).__module__ == "numpy":
        advice = "pass its tolist()"
    raise UserError(f"{_where(path)} is a {kind}, which JSON cannot represent; {advice}.")


def _key(key: Any, path: list[str]) -> str:
    if not isinstance(key, str):
        raise UserError(f"{_where(path)} has the key {key!r}, a {type(key).__name__}; the keys of JSON are text.")
    return _text(key, path)


def _text(value: str, path: list[str]) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{_where(path)} contains half of a surrogate pair at character {error.start}, which is not text; decode "
            f"it again from its source, or replace the character."
        ) from error
    return str(value)


def _where(path: list[str]) -> str:
    return ".".join(path).encode("utf-8", "replace").decode() or "the body"

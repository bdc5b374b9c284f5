"""What the detectors of personal data have in common: their type, the kinds of identifiers, and two checks."""

import re
from collections.abc import Callable
from typing import NamedTuple

__all__ = [
    "ADDRESS",
    "BANK_ACCOUNT",
    "BIRTH_DATE",
    "CARD",
    "EMAIL",
    "GAP",
    "HANDLE",
    "LINK",
    "NATIONAL_ID",
    "NETWORK",
    "PHONE",
    "Detector",
    "digit_count",
    "follows_id_word",
    "is_date_or_years",
    "value_span",
]

LINK, EMAIL, HANDLE, PHONE = "links", "e-mail addresses", "social handles", "telephone numbers"
ADDRESS, BIRTH_DATE, NATIONAL_ID = "postal addresses", "dates of birth", "national ids"
BANK_ACCOUNT, CARD, NETWORK = "bank accounts", "card numbers", "network addresses"

GAP = r"(?:[ ]?[-./\u2010-\u2013][ ]?|[ ])"  # between groups of digits

_DIGIT = re.compile(r"\d")
_DATE = re.compile(r"(?<!\d)(?:\d{1,2}([-./ ])\d{1,2}\1(?:19|20)\d\d|(?:19|20)\d\d([-./ ])\d{1,2}\2\d{1,2})(?!\d)")
_YEARS = re.compile(rf"(?:19|20)\d\d(?:{GAP}(?:19|20)\d\d)*")
_ID_WORD = re.compile(
    r"\b(?:id|ids|ref|req|requisition|reference|sku|isbn|ean|iban|order|article|item|code)\b"
    r"(?:\.? (?:no|nr|number|id)\b)?[.:#-]* ?$",
    re.IGNORECASE,
)
_BEFORE = 30  # characters before an identifier in which a word is searched

Span = tuple[int, int]


def value_span(match: re.Match[str]) -> Span:
    """Return the span of the group `value`; that of the match if the pattern has no such group."""
    return match.span("value" if "value" in match.re.groupindex else 0)


class Detector(NamedTuple):
    """Finds identifiers of one kind. The pattern takes linear time: its quantifiers are bounded or possessive.

    Args:
        kind: The kind of identifiers.
        pattern: Finds candidates.
        accept: Returns the span to remove, which overlaps the match, or None: it is something else.
        digits: Texts with fewer digits are not searched.
        hints: Texts with none of these, in lower case, are not searched; empty: all are.
    """

    kind: str
    pattern: re.Pattern[str]
    accept: Callable[[re.Match[str]], Span | None] = value_span
    digits: int = 0
    hints: tuple[str, ...] = ()


def digit_count(text: str) -> int:
    """Return the number of digits in a text, of any script."""
    return len(_DIGIT.findall(text))


def follows_id_word(text: str, start: int) -> bool:
    """Return whether a word such as `order no.` stands before `start`: what follows is the id of a thing."""
    return _ID_WORD.search(text, max(0, start - _BEFORE), start) is not None


def is_date_or_years(text: str) -> bool:
    """Return whether a text of digits contains a date, or is a list of years."""
    return _DATE.search(text) is not None or _YEARS.fullmatch(text) is not None

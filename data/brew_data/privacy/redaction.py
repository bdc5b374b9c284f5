"""Finds identifiers of persons in text, and removes them: contacts, addresses, accounts, ids, dates of birth.

Tables, requests, nearline events and batches all use `redact`, so that training and serving show the same text. The
detectors are our own: libraries that also find names and places load language models. Names are not searched.

The detectors prefer precision: prices, years, dates, scores, ids of things and names such as `booking.com` stay.
"""

import re
from collections import Counter
from typing import NamedTuple

from brew_data.privacy.address_detectors import ADDRESS_DETECTORS
from brew_data.privacy.contact_detectors import CONTACT_DETECTORS, HANDLE_DETECTORS, SPELLED_DOTS
from brew_data.privacy.detector import digit_count
from brew_data.privacy.number_detectors import NUMBER_DETECTORS

__all__ = ["Identifier", "find_identifiers", "redact"]

# Where two overlap, the earlier one counts: an e-mail address in a link is a link.
_LINKS_AND_MAIL, _PHONES = CONTACT_DETECTORS[:3], CONTACT_DETECTORS[3:]
_DETECTORS = (*_LINKS_AND_MAIL, *NUMBER_DETECTORS, *ADDRESS_DETECTORS, *_PHONES, *HANDLE_DETECTORS)

_HINT = re.compile(r"[\d@\uff20/:=_.)\]}>]")  # without one of these or a spelled dot, a text has no identifier

# Characters without a form, behind which an identifier could hide: controls, soft hyphens, marks of the direction.
_INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\u202a-\u202e\u2066-\u2069\ufeff]")

_COMMAS = re.compile(r" ?,(?: ?,)*")
_MOST_PASSES = 5  # a text that needs more was made to need them
_SUSPICIOUS = re.compile(rf"{_HINT.pattern}|\b(?:{'|'.join(word.strip() for word in SPELLED_DOTS)})\b")


class Identifier(NamedTuple):
    """An identifier in a text: its kind, and where it starts and ends."""

    kind: str
    start: int
    end: int


def find_identifiers(text: str) -> list[Identifier]:
    """Return the identifiers in a line of text, sorted, without overlaps.

    Args:
        text: Without line breaks and repeated spaces.
    """
    if not _HINT.search(text) and not any(map(text.__contains__, SPELLED_DOTS)):
        return []
    found: list[Identifier] = []
    digits, lowered = digit_count(text), text.lower()
    is_taken = bytearray(len(text))
    for detector in _DETECTORS:
        if digits < detector.digits or (detector.hints and not any(map(lowered.__contains__, detector.hints))):
            continue
        for match in detector.pattern.finditer(text):
            if (span := detector.accept(match)) is None:
                continue
            start, end = span
            if is_taken.find(1, start, end) < 0:
                is_taken[start:end] = b"\x01" * (end - start)
                found.append(Identifier(detector.kind, start, end))
    return sorted(found, key=lambda identifier: identifier.start)


def redact(text: str, counts: Counter[str] | None = None) -> str:
    """Remove the identifiers from a line of text. Applying it twice changes nothing more, and it never lengthens.

    Args:
        text: Without line breaks and repeated spaces.
        counts: Receives the number of identifiers that were removed, by kind (`brew_data.privacy.detector`).

    Returns:
        The text without its identifiers, repeated spaces, and invisible control characters; the same text if it has
        none.
    """
    if not text.isprintable() and _INVISIBLE.search(text):
        text = _tidy(_INVISIBLE.sub("", text))  # an element of a list can be gone
    for _ in range(_MOST_PASSES):  # a removal can join the parts of another identifier
        found = find_identifiers(text)
        if not found:
            return text
        kept, end = [], 0
        for identifier in found:
            kept.append(text[end : identifier.start])
            end = identifier.end
            if counts is not None:
                counts[identifier.kind] += 1
        text = _tidy(" ".join([*kept, text[end:]]))
    return _tidy(_SUSPICIOUS.sub(" ", text))


def _tidy(text: str) -> str:
    """Collapse the spaces and commas that removals leave."""
    return _COMMAS.sub(",", " ".join(text.split())).strip(" ,")

"""Finds and removes contacts in text: e-mail addresses, telephone numbers, and links with an identifier.

The patterns are our own. Libraries that find names and places too (presidio, scrubadub) load language models and take
milliseconds per text; `phonenumbers` needs the country of numbers that are written without one.

Prices, years, dates, scores, ids and names such as `booking.com` are not contacts. A number of ten digits that stands
alone is kept: it is an id more often than a telephone number.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = ["EMAIL", "LINK", "PHONE", "redact"]

EMAIL, PHONE, LINK = "e-mail addresses", "telephone numbers", "links"

# Few texts have a hint of a contact; only these are searched with the slower patterns.
_AT_HINT = re.compile(r"[@\uff20]|[aA][tT] ?[])}>]")
_LINK_HINT = re.compile(r"\.[a-z]{2,4}[/?#]|://|skype:", re.IGNORECASE)
_DIGITS_HINT = re.compile(r"(?:\d\D{0,5}){6}\d")

# A quantifier that ends with `+` does not backtrack, so that no text takes quadratic time.
_LOCAL = r"[\w.+%&'~!#$*=-]"
_AT = r"(?:[@\uff20]|\ ?[\[({<]\ ?(?:at|@)\ ?[\])}>]\ ?)"
_DOT = r"(?:[.\uff0e]|\ ?[\[({<]\ ?(?:dot|\.)\ ?[\])}>]\ ?)"
_EMAIL = re.compile(
    rf"(?:mailto:)?(?<!{_LOCAL}){_LOCAL}++{_AT}(?:[\w-]++{_DOT})+[^\W\d_][\w-]*+",
    re.IGNORECASE | re.VERBOSE,
)

_PROFILE_HOSTS = (
    "linkedin.com", "lnkd.in", "xing.com", "github.com", "gitlab.com", "facebook.com", "fb.com", "instagram.com",
    "twitter.com", "x.com", "threads.net", "tiktok.com", "youtube.com", "medium.com", "t.me", "telegram.me", "wa.me",
    "linktr.ee", "calendly.com", "signal.me",
)  # fmt: skip
_TAIL = r"[^\s<>\"]*[^\s<>\".,;:!?)\]}']"  # the end of a link, without the punctuation of the sentence
_LINK = re.compile(
    rf"""(?:
        (?:(?:https?|ftp)://|(?<![\w.-])www\.)[^\s/?\#<>"]++[/?\#]{_TAIL}
      | (?<![\w.@-])(?:[\w-]++\.)*?(?:{"|".join(map(re.escape, _PROFILE_HOSTS))})/{_TAIL}
      | \bskype:{_TAIL}
    )""",
    re.IGNORECASE | re.VERBOSE,
)

_GAP = r"(?:\ ?[-./\u2010-\u2013]\ ?|\ )"  # between groups of digits
_DASH = r"[-.\ \u2010-\u2013]"
_DIGIT = rf"{_GAP}?\(?\d(?:\)(?={_GAP}?\d))?"
_ALONE, _END = r"(?<![\w+.,\#$\u20ac\u00a3\u00a5/-])", r"(?!\w|[-.,/]\d)"
_INTERNATIONAL = re.compile(rf"(?<![\w+-])\(?\+\ ?[1-9]\)?(?:{_DIGIT}){{7,14}}(?!\w)", re.VERBOSE)
_NORTH_AMERICAN = re.compile(
    rf"{_ALONE}(?:1{_DASH})?(?:\([2-9]\d\d\)\ ?|[2-9]\d\d{_DASH})[2-9]\d\d{_DASH}\d{{4}}{_END}", re.VERBOSE
)
_NATIONAL = re.compile(rf"{_ALONE}(?:\(0\d{{1,5}}\)\ ?|0\d{{1,5}}{_GAP})\d(?:{_GAP}?\d){{4,11}}{_END}", re.VERBOSE)
_CUED = re.compile(
    rf"""\b(?:tel|telephone|telefon|phone|call|mobile|mobil|cell|fax|whatsapp|sms|handy|hotline)\b[.:\ ]*+
        (?:(?:me|us|on|at|no|nr|number|under|is)\b[.:\ ]*+){{0,3}}
        (?P<number>\(?\d\)?(?:{_DIGIT}){{6,14}}){_END}""",
    re.IGNORECASE | re.VERBOSE,
)

_THOUSANDS = re.compile(r"\+?[1-9]\d{0,2}([ .])\d{3}(?:\1\d{3})?")
_DATE = re.compile(r"(?<!\d)(?:\d{1,2}([-./ ])\d{1,2}\1(?:19|20)\d\d|(?:19|20)\d\d([-./ ])\d{1,2}\2\d{1,2})(?!\d)")
_YEARS = re.compile(rf"(?:19|20)\d\d(?:{_GAP}(?:19|20)\d\d)*", re.VERBOSE)
_BEFORE_AN_ID = re.compile(
    r"\b(?:id|ids|ref|req|requisition|reference|sku|isbn|ean|iban|order|article|item|code)\b"
    r"(?:\.? (?:no|nr|number|id)\b)?[.:#-]* ?$",
    re.IGNORECASE,
)
_COMMAS = re.compile(r" ?,(?: ?,)*")


def _is_phone(text: str, start: int, end: int) -> bool:
    """Whether digits in the form of a telephone number are not an amount, a date or years."""
    number = text[start:end]
    return not (_THOUSANDS.fullmatch(number) or _DATE.search(number) or _YEARS.fullmatch(number))


def _is_local(text: str, start: int, end: int) -> bool:
    return _BEFORE_AN_ID.search(text, max(0, start - 30), start) is None and _is_phone(text, start, end)


def _is_national(text: str, start: int, end: int) -> bool:
    return sum(character.isdecimal() for character in text[start:end]) >= 9 and _is_local(text, start, end)


def _any(text: str, start: int, end: int) -> bool:
    return True


_IsContact = Callable[[str, int, int], bool]  # of a text, and the start and end of a match in it


class _Kind(NamedTuple):
    name: str
    hint: Callable[[str], object]  # whether a text can have such a contact; fast
    patterns: Sequence[tuple[re.Pattern[str], _IsContact]]


_KINDS = (
    _Kind(LINK, lambda text: ("." in text or ":" in text) and _LINK_HINT.search(text), [(_LINK, _any)]),
    _Kind(EMAIL, _AT_HINT.search, [(_EMAIL, _any)]),
    _Kind(
        PHONE,
        _DIGITS_HINT.search,
        [(_INTERNATIONAL, _is_phone), (_NORTH_AMERICAN, _is_local), (_NATIONAL, _is_national), (_CUED, _is_phone)],
    ),
)


def redact(text: str, counts: Counter[str] | None = None) -> str:
    """Remove the contacts from a line of text. Applying it twice changes nothing more.

    Args:
        text: Without line breaks and repeated spaces.
        counts: Receives the number of contacts that were removed, by kind: `EMAIL`, `PHONE`, `LINK`.

    Returns:
        The text without its contacts and without repeated spaces; the same text if it has none.
    """
    while True:
        before = text
        for kind in _KINDS:
            if not kind.hint(text):
                continue
            for pattern, is_contact in kind.patterns:
                text, count = _remove(text, pattern, is_contact)
                if counts is not None and count:
                    counts[kind.name] += count
        if text == before:
            return text
        # A removal can join the parts of another contact, and leaves the commas of a list.
        text = _COMMAS.sub(",", " ".join(text.split())).strip(" ,")


def _remove(text: str, pattern: re.Pattern[str], is_contact: _IsContact) -> tuple[str, int]:
    kept: list[str] = []
    end = 0
    for match in pattern.finditer(text):
        group = "number" if "number" in pattern.groupindex else 0
        if is_contact(text, match.start(group), match.end(group)):
            kept.append(text[end : match.start(group)])
            end = match.end(group)
    return (" ".join([*kept, text[end:]]), len(kept)) if kept else (text, 0)

"""Plants personal data in free text, and says which part of the text it is.

The patterns (`phrases/contacts.yaml`) are written from how people write about themselves, not from what a detector
looks for. All data are invented: e-mail addresses use the domains of RFC 2606, and telephone numbers ranges that are
for fiction (US and Canada 555-01xx; UK 020 7946 0xxx, 01632 960xxx, 07700 900xxx; Australia 5550 xxxx; Ireland 020 91x
xxxx; Germany 030 23125 xxx, 089 99998 xxx, 0171 39200 xx; France 01 99 00 xx xx, 06 39 98 xx xx; Sweden 08-465 004 xx),
or a range that is not in use where a country has none.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from brew_data.sources.economic_graph import vocabulary as words
from brew_data.sources.economic_graph.language.grammar import Draw, Grammar, uniform_draws

__all__ = ["CONTACT_KINDS", "Span", "plant_contact", "plant_decoy"]

CONTACT_KINDS = ("email", "phone", "address", "link", "handle")


class Span(NamedTuple):
    """A part of a text that is personal data, in characters."""

    start: int
    end: int
    kind: str  # one of CONTACT_KINDS


_PHRASES: dict[str, Any] = words.load_phrases("contacts")
_GRAMMARS = {language: Grammar({"sentence": sentences}) for language, sentences in _PHRASES["sentences"].items()}


def plant_contact(rng: np.random.Generator, text: str, locale: str) -> tuple[str, tuple[Span, ...]]:
    """Add a sentence with personal data to a text, before or after it.

    Args:
        rng: Draws the sentence and the data.
        text: Free text of a member.
        locale: Such as "de_DE"; the sentence is in its language, numbers and addresses in the format of its country.

    Returns:
        The new text, and its spans of personal data; one or two.
    """
    draw = uniform_draws(rng)
    data = _personal_data(draw, locale)
    # The sentence is written with a marker for each kind first, so that it is known which kinds it has.
    markers = {kind: f"<{kind}>" for kind in CONTACT_KINDS}
    contact = _GRAMMARS[words.language_of(locale)].write("sentence", markers, draw)
    kinds = [kind for kind, marker in markers.items() if marker in contact]
    for kind in kinds:
        contact = contact.replace(markers[kind], data[kind])
    before, after = (f"{text} ", "") if draw() < 0.75 else ("", f" {text}")
    planted = f"{before}{contact}{after}" if text else contact
    starts = [planted.index(data[kind]) for kind in kinds]
    spans = tuple(Span(start, start + len(data[kind]), kind) for start, kind in zip(starts, kinds, strict=True))
    return planted, spans


def plant_decoy(rng: np.random.Generator, text: str, locale: str) -> str:
    """Add a sentence with numbers that are not personal data to a text, to measure the precision of a detector."""
    draw = uniform_draws(rng)
    decoy = _choice(_PHRASES["decoys"][words.language_of(locale)], draw).replace("{n}", str(10 + int(draw() * 18)))
    return f"{text} {decoy}"


def _personal_data(draw: Draw, locale: str) -> dict[str, str]:
    """Draw personal data of one person, by kind."""
    language, country = words.language_of(locale), locale.partition("_")[2]
    names = locale if locale in words.FIRST_NAMES else words.LOCALES[0]
    first, last = (_ascii(_choice(table[names], draw)) for table in (words.FIRST_NAMES, words.LAST_NAMES))
    fields = {"first": first, "last": last, "f": first[0], "l": last[0], "First": first.title(), "Last": last.title()}
    phones, streets = (table.get(country, table[language]) for table in (_PHRASES["phones"], _PHRASES["streets"]))
    number = str(1 + int(draw() * 98))
    return {
        "email": _digits(_choice(_PHRASES["emails"], draw).format(**fields), draw),
        "phone": _digits(_choice(phones, draw), draw),
        "address": _digits(_choice(streets, draw).format(n=number), draw),
        "link": _digits(_choice(_PHRASES["links"], draw).format(**fields), draw),
        "handle": _digits(_choice(_PHRASES["handles"], draw).format(**fields), draw),
    }


def _choice(options: Sequence[str], draw: Draw) -> str:
    return options[int(draw() * len(options))]


def _digits(pattern: str, draw: Draw) -> str:
    return "".join(str(int(draw() * 10)) if character == "#" else character for character in pattern)


def _ascii(name: str) -> str:
    """Write a name as in an address: lower case, no accents, no spaces."""
    plain = unicodedata.normalize("NFKD", name.lower().replace("ß", "ss"))
    return "".join(character for character in plain if "a" <= character <= "z")

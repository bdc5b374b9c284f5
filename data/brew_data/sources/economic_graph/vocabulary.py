"""The vocabularies of the economic graph. The indexes into them are the latent facts of members and entities.

The phrases are in the folder `phrases`, one YAML file for industries, topics, places and people; all of them are our
choice. Companies and people are invented. A concept has several phrases, so a text does not repeat a name: `ROLES`,
`SKILLS` and `TOPICS` have the names, `*_PHRASES` what texts say.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

__all__ = [
    "CITIES",
    "CITY_PHRASES",
    "DEGREES",
    "DUTIES",
    "FIELDS",
    "FIRST_NAMES",
    "INDUSTRIES",
    "INDUSTRY_TOPICS",
    "LANGUAGES",
    "LAST_NAMES",
    "LOCALES",
    "PLACES",
    "ROLES",
    "ROLE_PHRASES",
    "SENIORITIES",
    "SKILLS",
    "SKILL_PHRASES",
    "TOPICS",
    "TOPIC_CLAIMS",
    "TOPIC_PHRASES",
    "TOPIC_TIPS",
    "WINS",
    "City",
    "company_names",
    "language_of",
    "load_phrases",
]

Phrases = tuple[str, ...]  # of one concept

LANGUAGES = ("en", "de", "fr", "es", "pt")
SENIORITIES = ("entry", "mid", "senior", "lead", "director")  # ordered


class City(NamedTuple):
    """A city, with the locale of the texts that are written there."""

    name: str
    country: str
    locale: str


def load_phrases(name: str) -> Any:
    """Read a file of the folder `phrases`."""
    text = (Path(__file__).parent / "phrases" / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=yaml.CSafeLoader)  # 15 times as fast as the loader in Python


def _columns(row: str) -> list[str]:
    return [column.strip() for column in row.split("|")]


def _translations(row: str) -> dict[str, Phrases]:
    """Read `English | synonym | German | French | Spanish | Portuguese`; a missing column means the first."""
    columns = _columns(row)
    columns += columns[:1] * (6 - len(columns))
    phrases = dict(zip(LANGUAGES[1:], ((column,) for column in columns[2:]), strict=True))
    return {"en": tuple(dict.fromkeys(columns[:2])), **phrases}


def _by_language(rows: Iterable[Iterable[str]]) -> Mapping[str, tuple[tuple[Phrases, ...], ...]]:
    """Return the phrases by language, industry and index."""
    read = [[_translations(row) for row in industry] for industry in rows]
    return {lang: tuple(tuple(row[lang] for row in industry) for industry in read) for lang in LANGUAGES}


def _merged(rows: Iterable[Iterable[str]]) -> Mapping[str, tuple[Phrases, ...]]:
    """Return all phrases of an industry, by language and industry."""
    table = _by_language(rows)
    return {lang: tuple(tuple(chain.from_iterable(industry)) for industry in table[lang]) for lang in LANGUAGES}


_industries: dict[str, Any] = load_phrases("industries")
_topics: dict[str, Any] = load_phrases("topics")
_places: dict[str, Any] = load_phrases("places")
_people: dict[str, Any] = load_phrases("people")

INDUSTRIES: tuple[str, ...] = tuple(_industries)
ROLE_PHRASES = _by_language(industry["roles"] for industry in _industries.values())
SKILL_PHRASES = _by_language(industry["skills"] for industry in _industries.values())
ROLES: tuple[Phrases, ...] = tuple(tuple(names[0] for names in industry) for industry in ROLE_PHRASES["en"])
SKILLS: tuple[Phrases, ...] = tuple(tuple(names[0] for names in industry) for industry in SKILL_PHRASES["en"])
FIELDS = _merged([industry["field"]] for industry in _industries.values())  # "law", "software engineering"
DEGREES = _merged(industry["degrees"] for industry in _industries.values())
DUTIES = _merged(industry["duties"] for industry in _industries.values())  # what somebody does; a verb and its object
WINS: tuple[Phrases, ...] = tuple(tuple(industry["wins"]) for industry in _industries.values())  # in the past tense
PLACES: tuple[Phrases, ...] = tuple(tuple(industry["places"]) for industry in _industries.values())

TOPICS: tuple[str, ...] = tuple(_topics["topics"])
INDUSTRY_TOPICS: tuple[tuple[int, ...], ...] = tuple(
    tuple(TOPICS.index(topic.strip()) for topic in _topics["industry_topics"][industry].split(","))
    for industry in INDUSTRIES
)
_names = [[_columns(row) for row in topic["names"]] for topic in _topics["topics"].values()]
_english = [topic["phrases"] for topic in _topics["topics"].values()]
TOPIC_PHRASES: Mapping[str, tuple[Phrases, ...]] = {
    lang: tuple(
        tuple(row[column] for row in rows) + tuple(more if lang == "en" else ())
        for rows, more in zip(_names, _english, strict=True)
    )
    for column, lang in enumerate(LANGUAGES)
}
TOPIC_TIPS: tuple[Phrases, ...] = tuple(tuple(topic["tips"]) for topic in _topics["topics"].values())
TOPIC_CLAIMS: tuple[Phrases, ...] = tuple(tuple(topic["claims"]) for topic in _topics["topics"].values())

_rows = [_columns(row) for row in _places["cities"]]
CITIES: tuple[City, ...] = tuple(City(*row[:3]) for row in _rows)
CITY_PHRASES: Mapping[str, tuple[Phrases, ...]] = {
    lang: tuple((row[0], row[3]) if lang == "en" else (_places["local_names"].get(row[0], row[0]),) for row in _rows)
    for lang in LANGUAGES
}
LOCALES: tuple[str, ...] = tuple(dict.fromkeys(city.locale for city in CITIES))


def _names_of(locale: str, names: Mapping[str, str]) -> Phrases:
    language, country = locale.split("_")
    return tuple(name.strip() for name in names.get(country, names[language]).split(","))


FIRST_NAMES: Mapping[str, Phrases] = {locale: _names_of(locale, _people["first_names"]) for locale in LOCALES}
LAST_NAMES: Mapping[str, Phrases] = {locale: _names_of(locale, _people["last_names"]) for locale in LOCALES}
_COMPANY_WORDS: Phrases = tuple(name.strip() for name in _people["company_words"].split(","))


def language_of(locale: str) -> str:
    """Return the language of a locale such as "de_DE"; English for languages that are not in LANGUAGES."""
    language = locale.split("_")[0]
    return language if language in LANGUAGES else "en"


def company_names(rng: np.random.Generator, count: int, industry: int) -> list[str]:
    """Draw `count` names of companies of an industry; all different, up to some 20 thousand."""
    suffixes = [suffix.strip() for suffix in _industries[INDUSTRIES[industry]]["suffixes"].split(",")]
    names: Sequence[str] = [f"{first} {suffix}" for first in _COMPANY_WORDS for suffix in suffixes]
    if count > len(names):
        pairs = [f"{first} {second}" for first in _COMPANY_WORDS for second in _COMPANY_WORDS if first != second]
        names = [*names, *(f"{pair} {suffix}" for pair in pairs for suffix in suffixes)]
    repeats = count > len(names)
    return [names[i] for i in rng.choice(len(names), size=count, replace=repeats)]

"""The vocabularies of the synthetic graph: small closed sets, mostly of single words; and the text made from them.

All words are our choice. Companies, addresses and numbers are invented: RFC 2606 reserves example.com for examples, and
the North American numbering plan reserves 555-01xx for fiction.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

__all__ = [
    "APPLICANTS",
    "AUTHORS",
    "CITIES",
    "COMPANIES",
    "CONTACTS",
    "FOLLOWERS",
    "FORMATS",
    "HOOKS",
    "INDUSTRIES",
    "INDUSTRY_TOPICS",
    "LOCALES",
    "ROLES",
    "SENIORITIES",
    "SKILLS",
    "TOPICS",
    "TOPIC_WORDS",
    "skill_texts",
    "struct",
    "with_contacts",
]

# Industry -> its roles, its skills, and the post topics related to it.
_INDUSTRY: dict[str, tuple[str, str, str]] = {
    "software": ("developer engineer architect", "python java cloud testing linux", "ai design"),
    "finance": ("accountant banker auditor", "excel audit tax risk treasury", "markets policy"),
    "health": ("nurse doctor therapist", "surgery triage anatomy nursing pharmacy", "wellness policy"),
    "education": ("teacher lecturer tutor", "curriculum grading coaching literacy algebra", "careers wellness"),
    "media": ("editor producer journalist", "writing filming layout broadcasting editing", "design careers"),
    "legal": ("lawyer paralegal notary", "contracts litigation patents compliance drafting", "policy markets"),
}
TOPICS: tuple[str, ...] = ("ai", "careers", "design", "markets", "policy", "wellness")
INDUSTRIES: tuple[str, ...] = tuple(_INDUSTRY)
ROLES: tuple[tuple[str, ...], ...] = tuple(tuple(words[0].split()) for words in _INDUSTRY.values())  # (6, 3)
SKILLS: tuple[tuple[str, ...], ...] = tuple(tuple(words[1].split()) for words in _INDUSTRY.values())  # (6, 5)
INDUSTRY_TOPICS: tuple[tuple[int, ...], ...] = tuple(
    tuple(TOPICS.index(topic) for topic in words[2].split()) for words in _INDUSTRY.values()
)  # (6, 2) indices into TOPICS

SENIORITIES: tuple[str, ...] = ("junior", "mid", "senior", "director")  # ordered
CITIES: tuple[str, ...] = ("berlin", "boston", "dublin", "madrid", "paris", "seattle")
COMPANIES: tuple[str, ...] = (
    "acorn", "bluebird", "cobalt", "everest", "falcon", "granite", "harbor", "indigo",
    "juniper", "lantern", "meridian", "orchid",
)  # fmt: skip
APPLICANTS: tuple[str, ...] = ("few", "some", "many", "countless")  # ordered

AUTHORS: tuple[str, ...] = (
    "analyst", "consultant", "founder", "investor", "manager", "professor", "recruiter", "reporter",
)  # fmt: skip
FORMATS: tuple[str, ...] = ("article", "photo", "poll", "video")
FOLLOWERS: tuple[str, ...] = ("dozens", "hundreds", "thousands", "millions")  # ordered
HOOKS: tuple[str, ...] = ("why", "how", "notes", "lessons", "rethinking", "inside")
TOPIC_WORDS: tuple[tuple[str, ...], ...] = (
    ("agents", "models", "robots"),
    ("promotions", "mentors", "pivots"),
    ("typography", "sketches", "colors"),
    ("stocks", "bonds", "inflation"),
    ("laws", "elections", "subsidies"),
    ("sleep", "burnout", "running"),
)  # (6 topics, 3)

LOCALES: tuple[tuple[str, float], ...] = (("en_US", 0.6), ("en_GB", 0.2), ("en_IE", 0.1), ("en_DE", 0.1))
CONTACTS: tuple[str, ...] = ("mail ana@example.com", "write to sam.lee@example.com", "call +1 202-555-0142")


def struct(columns: Mapping[str, np.ndarray | Sequence[str] | None]) -> pa.StructArray:
    """Build a struct of strings, one child per column; a column that is None is null in every row."""
    rows = max(len(column) for column in columns.values() if column is not None)
    children = [pa.nulls(rows, pa.string()) if x is None else pa.array(x, pa.string()) for x in columns.values()]
    return pa.StructArray.from_arrays(children, names=list(columns))


def skill_texts(has_skill: np.ndarray) -> list[str]:
    """Join skills by commas; `has_skill` is bool, shape (rows, 30), in the order of SKILLS."""
    names = np.array(SKILLS).ravel()
    return [", ".join(names[row]) for row in has_skill]


def with_contacts(rng: np.random.Generator, texts: Sequence[str], share: float) -> list[str]:
    """Append an invented address or number to a `share` of the texts, as input for privacy filters."""
    marked, contacts = rng.random(len(texts)) < share, rng.choice(CONTACTS, size=len(texts))
    return [f"{text} {contact}" if mark else text for text, contact, mark in zip(texts, contacts, marked, strict=True)]

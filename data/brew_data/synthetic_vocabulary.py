"""The words of the synthetic economic graph: small closed vocabularies, mostly single words, and text made of them.

Owns: attribute values, which of them belong together, and the struct columns that hold them. Does not own: how often
they occur or what they are worth (`brew_data.synthetic`). All words are our choice; companies, addresses and numbers
are invented (example.com is reserved for examples by RFC 2606, 555-01xx for fiction in the North American plan).
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

# Industry -> its roles, its skills, and the post topics that its people care about by profession.
_INDUSTRY: dict[str, tuple[str, str, str]] = {
    "software": ("developer engineer architect", "python java cloud testing linux", "ai security design"),
    "finance": ("accountant banker auditor", "excel audit tax risk treasury", "markets policy data"),
    "health": ("nurse doctor therapist", "surgery triage anatomy nursing pharmacy", "wellness data policy"),
    "retail": ("buyer merchandiser cashier", "pricing inventory display checkout sourcing", "markets design careers"),
    "education": ("teacher lecturer tutor", "curriculum grading coaching literacy algebra", "careers wellness ai"),
    "energy": ("geologist operator surveyor", "turbines drilling solar wiring metering", "climate policy security"),
    "media": ("editor producer journalist", "writing filming layout broadcasting editing", "startups design ai"),
    "logistics": ("driver dispatcher planner", "routing freight customs warehousing forklift", "climate hiring data"),
    "construction": (
        "builder carpenter foreman",
        "welding masonry plumbing roofing concrete",
        "hiring climate leadership",
    ),
    "legal": (
        "lawyer paralegal notary",
        "contracts litigation patents compliance drafting",
        "policy security leadership",
    ),
    "travel": ("pilot guide concierge", "booking ticketing aviation languages itineraries", "startups careers hiring"),
    "food": ("chef baker sommelier", "baking grilling hygiene menus tasting", "wellness startups leadership"),
}
TOPICS: tuple[str, ...] = (
    "ai", "careers", "climate", "data", "design", "hiring",
    "leadership", "markets", "policy", "security", "startups", "wellness",
)  # fmt: skip
INDUSTRIES: tuple[str, ...] = tuple(_INDUSTRY)
ROLES: tuple[tuple[str, ...], ...] = tuple(tuple(words[0].split()) for words in _INDUSTRY.values())  # (12, 3)
SKILLS: tuple[tuple[str, ...], ...] = tuple(tuple(words[1].split()) for words in _INDUSTRY.values())  # (12, 5)
INDUSTRY_TOPICS: tuple[tuple[int, ...], ...] = tuple(
    tuple(TOPICS.index(topic) for topic in words[2].split()) for words in _INDUSTRY.values()
)  # (12, 3) indices into TOPICS

SENIORITIES: tuple[str, ...] = ("junior", "mid", "senior", "director")  # ordered
CITIES: tuple[str, ...] = (
    "austin", "berlin", "boston", "chicago", "denver", "dublin", "london", "madrid",
    "paris", "seattle",
)  # fmt: skip
COMPANIES: tuple[str, ...] = (
    "acorn", "bluebird", "cobalt", "dynamo", "everest", "falcon", "granite", "harbor",
    "indigo", "juniper", "kestrel", "lantern", "meridian", "nimbus", "orchid", "pinnacle",
    "quartz", "redwood", "sapphire", "tundra", "umbra", "vertex", "willow", "zephyr",
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
    ("carbon", "rivers", "forests"),
    ("charts", "warehouses", "metrics"),
    ("typography", "sketches", "colors"),
    ("interviews", "referrals", "onboarding"),
    ("trust", "feedback", "delegation"),
    ("stocks", "bonds", "inflation"),
    ("laws", "elections", "subsidies"),
    ("passwords", "breaches", "firewalls"),
    ("funding", "pitches", "exits"),
    ("sleep", "burnout", "running"),
)  # (12 topics, 3)

LOCALES: tuple[tuple[str, float], ...] = (("en_US", 0.6), ("en_GB", 0.2), ("en_IE", 0.1), ("en_DE", 0.1))
CONTACTS: tuple[str, ...] = ("mail ana@example.com", "write to sam.lee@example.com", "call +1 202-555-0142")


def struct(columns: Mapping[str, np.ndarray | Sequence[str] | None]) -> pa.StructArray:
    """A struct of strings, one child per column; a column that is None is null in every row."""
    rows = max(len(column) for column in columns.values() if column is not None)
    children = [pa.nulls(rows, pa.string()) if x is None else pa.array(x, pa.string()) for x in columns.values()]
    return pa.StructArray.from_arrays(children, names=list(columns))


def skill_texts(has_skill: np.ndarray) -> list[str]:
    """Comma-separated skills; `has_skill` is bool, shape (rows, 60), in the order of SKILLS."""
    names = np.array(SKILLS).ravel()
    return [", ".join(names[row]) for row in has_skill]


def with_contacts(rng: np.random.Generator, texts: Sequence[str], share: float) -> list[str]:
    """The texts, a `share` of them followed by an invented address or number, for the privacy step to find."""
    marked, contacts = rng.random(len(texts)) < share, rng.choice(CONTACTS, size=len(texts))
    return [f"{text} {contact}" if mark else text for text, contact, mark in zip(texts, contacts, marked, strict=True)]

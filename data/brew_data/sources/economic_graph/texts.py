"""Turns the arrays of the graph into facts, and facts into the fields of profiles and entities.

Texts are written in blocks of rows, and each block draws from a stream of its own, so that the texts of a row do not
depend on which rows are written together.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from brew_data.sources.economic_graph.config import random_stream
from brew_data.sources.economic_graph.facts import ENTITY_TYPES, EntityFacts, MemberFacts, PositionFacts
from brew_data.sources.economic_graph.language import entity_fields, member_profile
from brew_data.sources.economic_graph.language.contacts import plant_contact, plant_decoy
from brew_data.sources.economic_graph.population import locale_of
from brew_data.sources.economic_graph.world import World

__all__ = ["PlantedContact", "Texts", "entity_facts", "entity_texts", "member_facts", "member_texts", "text_blocks"]

TEXT_BLOCK = 1_024  # rows that draw from one stream; part of what a seed means
# The field of a type that has a number; its name says what it counts.
_NUMBERS = {
    "job": "applicants",
    "search_result": "applicants",
    "post": "reactions",
    "company": "followers",
    "course": "learners",
    "group": "members",
    "article": "reactions",
    "event": "attendees",
}
# The field of a type that people write freely, so that it may have personal data.
_FREE_TEXT = {
    "job": "description",
    "search_result": "description",
    "post": "text",
    "message": "text",
    "article": "text",
    "event": "description",
}
_PROFILE_TYPE = pa.struct(
    [
        *((name, pa.string()) for name in ("headline", "about", "positions", "education", "skills", "location")),
        ("followers", pa.int64()),
    ]
)
_TEXTS = (
    "query", "title", "company", "location", "description", "author", "text", "name", "headline", "about", "reason",
    "sender", "subject", "advertiser", "organizer",
)  # fmt: skip
_FIELDS_TYPE = pa.struct(
    [*((name, pa.string()) for name in _TEXTS), *((name, pa.int64()) for name in dict.fromkeys(_NUMBERS.values()))]
)


class PlantedContact(NamedTuple):
    """Personal data that was planted in a text: the truth for a detector."""

    row: int  # index of the member or the entity
    field: str
    start: int  # in characters
    end: int
    kind: str


class Texts(NamedTuple):
    """Fields of some members or entities."""

    fields: pa.Array  # structs; a field that a type does not have is null
    planted: list[PlantedContact]


def text_blocks(count: int) -> Iterator[range]:
    """Divide the indexes of all members, or of all entities, into the blocks that are written together."""
    return (range(first, min(first + TEXT_BLOCK, count)) for first in range(0, count, TEXT_BLOCK))


def member_texts(world: World, rows: range) -> Texts:
    """Write the profiles of a block of members.

    Args:
        world: The graph.
        rows: Indexes of members: one of `text_blocks`.
    """
    rng = random_stream(world.config, "member_texts", rows.start // TEXT_BLOCK)
    records, planted = [], []
    for row, facts in zip(rows, member_facts(world, rows), strict=True):
        locale = locale_of(facts.city)
        fields = member_profile(rng, facts, locale, world.config.text_scale)
        planted += _plant(world, rng, row, fields, "about", locale)
        records.append({**fields, "followers": facts.followers})
    return Texts(pa.array(records, _PROFILE_TYPE), planted)


def entity_texts(world: World, rows: range) -> Texts:
    """Write the fields of a block of entities; arguments as in `member_texts`."""
    rng = random_stream(world.config, "entity_texts", rows.start // TEXT_BLOCK)
    records, planted = [], []
    for row, facts in zip(rows, entity_facts(world, rows), strict=True):
        locale = locale_of(facts.city)
        fields = entity_fields(rng, facts, locale, world.config.text_scale)
        if free_text := _FREE_TEXT.get(facts.entity_type):
            planted += _plant(world, rng, row, fields, free_text, locale)
        number = _NUMBERS.get(facts.entity_type)
        records.append({**fields, number: facts.people} if number else fields)
    return Texts(pa.array(records, _FIELDS_TYPE), planted)


def _plant(
    world: World, rng: np.random.Generator, row: int, fields: dict[str, str], name: str, locale: str
) -> list[PlantedContact]:
    """Plant personal data in a field of some rows, and numbers that are not personal data in as many others."""
    share, uniform = world.config.contacts_share, rng.random()
    if uniform < share:
        fields[name], spans = plant_contact(rng, fields[name], locale)
        return [PlantedContact(row, name, *span) for span in spans]
    if uniform < 2 * share:
        fields[name] = plant_decoy(rng, fields[name], locale)
    return []


def member_facts(world: World, rows: range) -> Iterator[MemberFacts]:
    """Return the facts of some members."""
    members, companies = world.members, world.companies
    part = slice(rows.start, rows.stop)
    columns = (
        members.industry_M, members.role_M, members.seniority_M, members.city_M, members.company_M, members.years_M,
        members.skills_MK, members.past_company_M, members.past_role_M, members.past_seniority_M, members.past_years_M,
        members.mention_M, members.says_seeks_M, members.followers_M,
    )  # fmt: skip
    for row, (
        industry, role, seniority, city, company, years, skills, past_company, past_role, past_seniority, past_years,
        mention, seeks, followers,
    ) in zip(rows, zip(*(column[part].tolist() for column in columns), strict=True), strict=True):  # fmt: skip
        past = None
        if past_company >= 0:
            past_industry = int(companies.industry_C[past_company])
            past = PositionFacts(past_industry, past_role, past_seniority, companies.names[past_company], past_years)
        yield MemberFacts(
            name=members.names[row],
            position=PositionFacts(industry, role, seniority, companies.names[company], years),
            past=past,
            skills=tuple(skills),
            topics=(mention,) if mention >= 0 else (),
            city=city,
            seeks_job=seeks,
            followers=followers,
        )


def entity_facts(world: World, rows: range) -> Iterator[EntityFacts]:
    """Return the facts of some entities."""
    entities, members, companies = world.entities, world.members, world.companies
    part = slice(rows.start, rows.stop)
    author_E = entities.author_E[part]
    names: dict[str, list[Any]] = {
        "entity_type": [ENTITY_TYPES[number] for number in entities.type_E[part].tolist()],
        "skills": [tuple(skills) for skills in entities.skills_EK[part].tolist()],
        "company": [companies.names[company] for company in entities.company_E[part].tolist()],
        "author": [members.names[author] if author >= 0 else "" for author in author_E.tolist()],
        "author_industry": [int(members.industry_M[author]) if author >= 0 else 0 for author in author_E.tolist()],
        "author_role": [int(members.role_M[author]) if author >= 0 else 0 for author in author_E.tolist()],
    }
    for name in EntityFacts._fields:
        if name not in names:
            names[name] = getattr(entities, f"{name}_E")[part].tolist()
    for values in zip(*(names[name] for name in EntityFacts._fields), strict=True):
        yield EntityFacts(*values)

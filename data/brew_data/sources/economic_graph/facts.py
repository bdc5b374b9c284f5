"""The latent facts of members and entities, which the package `language` turns into text.

A fact is an index into `vocabulary`, a number, or a name. Behaviour (`behaviour.py`) depends on facts only; text is
written from facts only. So a text says what decides about an action, in words that repeat no field of the profile.
"""

from typing import NamedTuple

__all__ = ["EMPLOYERS", "ENTITY_TYPES", "QUALITIES", "TONES", "EntityFacts", "MemberFacts", "PositionFacts"]

# Types of entities, in the order in which they are numbered.
ENTITY_TYPES = (
    "job", "search_result", "post", "notification", "person", "company", "course", "group", "message", "ad", "article",
    "event",
)  # fmt: skip
# How a post, an article, a notification, a group, a course or an event speaks.
TONES = ("practical", "opinion", "personal", "news")
# Whom a job, a search result, a message or an ad comes from, and what a company is.
EMPLOYERS = ("startup", "corporation", "consultancy", "public")
QUALITIES = 4  # levels of visible quality: vague or generic (0) to concrete, generous or well made (3)


class PositionFacts(NamedTuple):
    """A position that a member holds or held."""

    industry: int  # index into INDUSTRIES
    role: int  # index into ROLES[industry]
    seniority: int  # index into SENIORITIES
    company: str
    years: int  # length


class MemberFacts(NamedTuple):
    """What a profile may say."""

    name: str
    position: PositionFacts  # the current one
    past: PositionFacts | None
    skills: tuple[int, ...]  # indexes into SKILLS[position.industry]
    topics: tuple[int, ...]  # indexes into TOPICS: interests that the profile mentions; other interests are not there
    city: int  # index into CITIES
    seeks_job: bool  # says that they are open to offers
    followers: int


class EntityFacts(NamedTuple):
    """What the text of an entity may say. Each type uses some of the facts; the others keep their defaults.

    | type | facts of its text |
    |---|---|
    | job | industry, role, seniority, skills, city, remote, company, employer, quality (pay), people (applicants) |
    | search_result | as job, and query_role, query_city: what was searched for |
    | post, article | topic, tone, quality, author, author_industry, author_role, people (reactions) |
    | notification | topic, tone, quality, author, author_industry, author_role |
    | person | author (their name), industry, role, seniority, company, city, topic, mutual |
    | company | company (its name), industry, employer, city, topic, quality, people (followers) |
    | course | industry, skills (one or two), seniority (its level), tone, quality (rating), people (learners) |
    | group | topic, industry, tone, quality, people (members) |
    | message | author, author_industry, author_role (the sender), industry, role, seniority, skills, city, company,
                employer: the job that it offers; quality (personal or a mass mailing) |
    | ad | company, employer, industry, topic, quality |
    | event | topic, industry, city, remote (online), tone, quality, company (organizer), people (attendees) |
    """

    entity_type: str
    industry: int = 0  # index into INDUSTRIES
    role: int = 0  # index into ROLES[industry]
    seniority: int = 0  # index into SENIORITIES
    skills: tuple[int, ...] = ()  # indexes into SKILLS[industry]
    topic: int = 0  # index into TOPICS
    tone: int = 0  # index into TONES
    employer: int = 0  # index into EMPLOYERS
    quality: int = 0  # 0 to QUALITIES - 1
    city: int = 0  # index into CITIES; its locale is the locale of the text
    remote: bool = False
    company: str = ""
    author: str = ""  # name of a person
    author_industry: int = 0
    author_role: int = 0
    people: int = 0  # whose number the text shows
    mutual: int = 0  # connections in common with the member to whom a person is suggested
    query_role: int = 0  # index into ROLES[industry]
    query_city: int = -1  # index into CITIES; -1: the search names no city

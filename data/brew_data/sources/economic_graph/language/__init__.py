"""The language of the economic graph: turns the facts of a member or an entity into text, and does nothing else.

| function | writes the fields |
|---|---|
| `member_profile` | headline, about, positions, education, skills, location |
| `entity_fields`, job | title, company, location, description |
| search_result | query, title, company, location, description |
| post | author, text |
| notification | author, text |
| person | name, headline, location, about, reason |
| company | name, location, about |
| course | title, description |
| group | name, about |
| message | sender, subject, text |
| ad | advertiser, text |
| article | author, title, text |
| event | title, organizer, location, description |
| `comment_text` | a comment on a post |
| `contacts.plant_contact` | a text with planted personal data, and which parts of it are personal data |

Numbers (applicants, reactions, followers) are fields of their own, which the caller adds. Profiles, jobs, search
results and posts are written in the language of the locale (English, German, French, Spanish, Portuguese), the other
types in English.

The same facts give different texts: each fact has several phrases, and each sentence several patterns. Texts depend
only on the facts and on the state of the generator.
"""

from collections.abc import Callable, Mapping

import numpy as np

from brew_data.sources.economic_graph import vocabulary as words
from brew_data.sources.economic_graph.facts import EntityFacts, MemberFacts
from brew_data.sources.economic_graph.language import jobs, network, offers, posts, profiles
from brew_data.sources.economic_graph.language.grammar import Draw, uniform_draws

__all__ = ["comment_text", "entity_fields", "member_profile"]

_Writer = Callable[[EntityFacts, Draw, str, float], dict[str, str]]
_WRITERS: Mapping[str, _Writer] = {
    "job": jobs.job,
    "search_result": jobs.search_result,
    "post": posts.post,
    "notification": posts.notification,
    "person": network.person,
    "company": network.company,
    "course": offers.course,
    "group": network.group,
    "message": offers.message,
    "ad": offers.ad,
    "article": posts.article,
    "event": offers.event,
}


def member_profile(rng: np.random.Generator, facts: MemberFacts, locale: str, scale: float = 1.0) -> dict[str, str]:
    """Write the text fields of a member's profile; takes about 20 us.

    Args:
        rng: Draws phrases and patterns.
        facts: What the profile may say.
        locale: Such as "de_DE"; its language is the language of the text, and English for languages we do not have.
        scale: Scales the number of sentences.
    """
    return profiles.profile(facts, uniform_draws(rng), words.language_of(locale), scale)


def entity_fields(rng: np.random.Generator, facts: EntityFacts, locale: str, scale: float = 1.0) -> dict[str, str]:
    """Write the text fields of an entity of any type; takes about 10 us. Arguments as in `member_profile`.

    Raises:
        KeyError: The type of the entity is not in the table above.
    """
    return _WRITERS[facts.entity_type](facts, uniform_draws(rng), words.language_of(locale), scale)


def comment_text(rng: np.random.Generator, facts: EntityFacts, locale: str) -> str:
    """Write a comment on a post, from its topic and the tone of the comment; in English."""
    return posts.comment(facts, uniform_draws(rng), words.language_of(locale), 1.0)["text"]

"""Texts of suggested people, of companies and of groups, in English."""

from brew_data.sources.economic_graph import vocabulary as words
from brew_data.sources.economic_graph.facts import EntityFacts
from brew_data.sources.economic_graph.language.grammar import Draw, Facts, Grammar, sentence
from brew_data.sources.economic_graph.language.titles import position_title

__all__ = ["company", "group", "person"]

_PERSON = Grammar(
    {
        "headline": ("{title} at {company}", "{title}, {company}", "{title} @ {company}"),
        "about": (
            "Posts about {subject}",
            "Active in a group on {subject}",
            "Speaks about {subject}",
            "Likes {subject}",
        ),
        "mutual": ("{count} mutual connections", "{count} connections in common", "knows {count} of your connections"),
        "mutual_1": ("one mutual connection", "knows one of your connections"),
        "mutual_0": ("no mutual connections", "new in your network"),
    }
)

# `employer_i` speaks for EMPLOYERS[i], `quality_i` for quality i.
_COMPANY = Grammar(
    {
        "employer_0": (
            "Startup from {city}, two years old.",
            "{n} people and a seed round.",
            "A young team with equity.",
        ),
        "employer_1": (
            "Listed group on four continents.",
            "Market leader with {n},000 people.",
            "A global corporation.",
        ),
        "employer_2": ("Consultants who work at the client.", "An advisory firm.", "We advise, project by project."),
        "employer_3": ("A public body of {city}.", "Non-profit since 1990.", "Owned by the city, run for everyone."),
        "work": ("We {duty}.", "Our people {duty}.", "Our trade: {field}.", "Every day we {duty}."),
        "topic": ("We write about {subject}.", "Follow us for news on {subject}.", "Our blog covers {subject}."),
        "quality_3": ("Staff rate us 4.{d} of 5, and pay bands are public.", "Top employer award, figures online."),
        "quality_2": ("Staff rate us 4 of 5.", "Each newcomer has a mentor.", "We answer every application."),
        "quality_1": ("We value teamwork.", "Passion is in our DNA.", "Our people are our strength."),
        "quality_0": ("World-class synergies!!", "We disrupt everything, 24/7!", "Hustle culture, no excuses!"),
    }
)

# `tone_i` speaks for TONES[i], `quality_i` for quality i.
_GROUP = Grammar(
    {
        "name": (
            "{subject} in {field}",
            "{field}: {subject}",
            "Friends of {subject}, {field}",
            "{field} club: {subject}",
        ),
        "tone_0": ("We swap checklists and templates.", "Bring a problem, leave with steps.", "Tips such as: {tip}."),
        "tone_1": ("Expect debate.", "Strong opinions welcome, for example: {claim}.", "We argue, politely."),
        "tone_2": ("We share our stories.", "A safe place for wins and failures.", "Members tell how they got here."),
        "tone_3": ("News and figures every morning.", "First to post reports and rulings.", "Daily press review."),
        "quality_3": ("Moderated daily, no ads, monthly meetups.", "Experts answer within a day, rules enforced."),
        "quality_2": ("A few good threads a week.", "Kind moderators."),
        "quality_1": ("Open to all.", "Feel free to join."),
        "quality_0": ("Post your links here!!", "Promo and memes allowed!", "Join NOW!!"),
    }
)


def person(facts: EntityFacts, draw: Draw, language: str, scale: float) -> dict[str, str]:
    """Write name, headline, location, about and reason of a suggested person.

    Args:
        facts: Author (the name), industry, role, seniority, company, city, topic, mutual.
        draw: Uniform numbers.
        language: Is ignored, as is `scale`.
        scale: Is ignored.
    """
    del language, scale
    slots: Facts = {
        "title": position_title(draw, "en", facts.industry, facts.role, facts.seniority),
        "company": facts.company,
        "subject": words.TOPIC_PHRASES["en"][facts.topic],
        "count": str(facts.mutual),
    }
    return {
        "name": facts.author,
        "headline": _PERSON.write("headline", slots, draw),
        "location": words.CITIES[facts.city].name,
        "about": _PERSON.write("about", slots, draw),
        "reason": _PERSON.write("mutual" if facts.mutual > 1 else f"mutual_{facts.mutual}", slots, draw),
    }


def company(facts: EntityFacts, draw: Draw, language: str, scale: float) -> dict[str, str]:
    """Write name, location and about of a company, from its name, industry, employer, city, topic and quality.

    `scale` 1 is a text of four sentences; at least one.
    """
    del language
    slots: Facts = {
        "duty": words.DUTIES["en"][facts.industry],
        "field": words.FIELDS["en"][facts.industry],
        "subject": words.TOPIC_PHRASES["en"][facts.topic],
        "city": words.CITY_PHRASES["en"][facts.city],
        "n": str(8 + int(draw() * 30)),
        "d": str(5 + int(draw() * 5)),
    }
    rules = [f"employer_{facts.employer}", "work", f"quality_{facts.quality}", "topic"][: max(1, round(4 * scale))]
    return {
        "name": facts.company,
        "location": words.CITIES[facts.city].name,
        "about": " ".join(sentence(_COMPANY.write(rule, slots, draw)) for rule in rules),
    }


def group(facts: EntityFacts, draw: Draw, language: str, scale: float) -> dict[str, str]:
    """Write name and about of a group, from topic, industry, tone and quality. `scale` 1: two sentences, at most."""
    del language
    slots: Facts = {
        "field": words.FIELDS["en"][facts.industry],
        "subject": words.TOPIC_PHRASES["en"][facts.topic],
        "tip": words.TOPIC_TIPS[facts.topic],
        "claim": words.TOPIC_CLAIMS[facts.topic],
    }
    rules = [f"tone_{facts.tone}", f"quality_{facts.quality}"][: max(1, round(2 * scale))]
    return {
        "name": sentence(_GROUP.write("name", slots, draw)),
        "about": " ".join(sentence(_GROUP.write(rule, slots, draw)) for rule in rules),
    }

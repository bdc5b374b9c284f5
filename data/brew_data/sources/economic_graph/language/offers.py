"""Texts that offer something, in English: courses, events, recruiting messages and ads."""

from brew_data.sources.economic_graph import vocabulary as words
from brew_data.sources.economic_graph.facts import EntityFacts
from brew_data.sources.economic_graph.language.grammar import Draw, Facts, Grammar, sentence
from brew_data.sources.economic_graph.language.titles import position_title

__all__ = ["ad", "course", "event", "message"]

# `level_i` speaks for SENIORITIES[i], `tone_i` for TONES[i], `employer_i` for EMPLOYERS[i], `quality_i` for quality i.
_COURSE = Grammar(
    {
        "level_0": ("{skill} for beginners", "First steps in {skill}", "{skill} from zero", "Intro to {skill}"),
        "level_1": ("{skill} in practice", "Everyday {skill}", "{skill} on the job", "Working with {skill}"),
        "level_2": ("Advanced {skill}", "{skill} in depth", "Expert class: {skill}"),
        "level_3": ("{skill} for team leads", "Guiding a team: {skill}", "Coach others in {skill}"),
        "level_4": ("{skill} for executives", "{skill}: strategy for directors", "Boardroom view of {skill}"),
        "tone_0": ("Exercises after each lesson.", "Hands-on: you {duty}.", "Bring your own project.", "Step by step."),
        "tone_1": ("A teacher with strong views.", "Lively debates on what works.", "Takes sides, argues well."),
        "tone_2": ("A practitioner tells her own story.", "Lessons from one long career.", "Warm and personal."),
        "tone_3": ("Updated with the figures of this year.", "Covers the latest rules.", "New edition, new studies."),
        "quality_3": ("Rated 4.{d}, feedback on every task.", "{n} graded exercises, certificate with exam."),
        "quality_2": ("Good reviews, subtitles, downloads.", "Clear audio and short videos."),
        "quality_1": ("Video lectures, {n} hours.", "Average reviews.", "Some slides are old."),
        "quality_0": (
            "Become an expert in one hour!!",
            "Secret tricks, no reviews yet!",
            "Get rich with this course!!",
        ),
    }
)
_EVENT = Grammar(
    {
        "title_0": ("Workshop: {subject}", "Hands-on session on {subject}", "Clinic: {subject}"),
        "title_1": ("Debate: {subject}", "Panel fight over {subject}", "Two sides of {subject}"),
        "title_2": ("Fireside stories: {subject}", "Life with {subject}", "An evening of stories on {subject}"),
        "title_3": ("Briefing: {subject}", "What is new in {subject}", "State of {subject}, figures of the year"),
        "for": (
            "For people who {duty}.",
            "Meet others from {field}.",
            "Made for {field}.",
            "Bring colleagues from {field}.",
        ),
        "quality_3": (
            "Agenda online, {n} speakers, recordings included.",
            "{n} case studies with numbers, small tables.",
        ),
        "quality_2": ("Two known speakers.", "Time for your questions."),
        "quality_1": ("Drinks and networking.", "Agenda follows."),
        "quality_0": ("Sales pitch with pizza!!", "Speakers to be announced!!", "Seats are going FAST!!!"),
    }
)
_MESSAGE = Grammar(
    {
        "subject": ("{title} at {company}", "{title}", "New role: {title}", "A role in {city}"),
        "opening_3": ("Hi, your work with {skill} caught my eye.", "Hi, I read your post on {skill} twice."),
        "opening_2": ("Hi, I think your profile fits.", "Hello, a colleague mentioned you."),
        "opening_1": ("Hello, we have an opening.", "Hi, hope you are well."),
        "opening_0": ("Dear candidate, URGENT!!", "Hey there, hot job alert!!!", "Dear Sir or Madam!"),
        "employer_0": (
            "Startup {company}, {city}, is hiring: {title}, with equity.",
            "Eleven people seek one more: {title}.",
        ),
        "employer_1": (
            "{company}, a global group, has an opening in {city}: {title}.",
            "Large corporation in {city}: {title}.",
        ),
        "employer_2": (
            "Consulting role at {company}: {title}, on client projects.",
            "Our clients in {city} need help: {title}.",
        ),
        "employer_3": (
            "Public employer in {city}: {title}, a permanent post.",
            "Non-profit {company} is hiring: {title}.",
        ),
        "detail": ("You would {duty}.", "The week: {duty}.", "It needs {skill}."),
        "closing_3": (
            "Pay is {pay}k. Does a call on Tuesday suit you?",
            "{pay}k, remote days, two interviews. Interested?",
        ),
        "closing_2": ("Shall we talk this week?", "Happy to send the details."),
        "closing_1": ("Let me know.", "Please apply on our site."),
        "closing_0": ("Reply ASAP with your CV!!!", "Forward to 5 friends!!", "Do not miss out!!"),
    }
)
_AD = Grammar(
    {
        "employer_0": ("A new app by a young team, all about {subject}.", "We are small and know {subject}."),
        "employer_1": ("{subject}? 9 of 10 large firms trust us.", "The global standard for {subject}."),
        "employer_2": ("Our experts visit you and explain {subject}.", "Book a consultant for {subject}."),
        "employer_3": ("Public programme on {subject}, funded by the state.", "Non-profit help with {subject}."),
        "for": ("For people who {duty}.", "Made for {field}.", "Loved by teams in {field}."),
        "quality_3": (
            "Try 30 days free, cancel in one click.",
            "Prices on the page, no card needed.",
            "Money back in 60 days.",
        ),
        "quality_2": ("Free trial.", "Watch a two-minute demo.", "Used by {n} teams near you."),
        "quality_1": ("Learn more.", "Discover the difference.", "Solutions that inspire."),
        "quality_0": ("CLICK NOW!!! 90% OFF", "You will not believe this trick!!", "Last chance, only today!!!"),
    }
)


def course(facts: EntityFacts, draw: Draw, language: str, scale: float) -> dict[str, str]:
    """Write title and description of a course, from industry, skills, seniority (its level), tone and quality.

    `scale` 1 is a description of two sentences, on tone and quality; the second skill makes a third.
    """
    del language
    slots = _slots(facts, draw)
    parts = [_COURSE.write(rule, slots, draw) for rule in (f"tone_{facts.tone}", f"quality_{facts.quality}")]
    if len(facts.skills) > 1:
        second = words.SKILL_PHRASES["en"][facts.industry][facts.skills[1]]
        parts.insert(1, f"Also covers {second[int(draw() * len(second))]}.")
    return {
        "title": sentence(_COURSE.write(f"level_{facts.seniority}", slots, draw)),
        "description": " ".join(map(sentence, parts[: max(1, round(len(parts) * scale))])),
    }


def event(facts: EntityFacts, draw: Draw, language: str, scale: float) -> dict[str, str]:
    """Write title, organizer, location and description of an event, from topic, industry, city, remote, tone, quality.

    `scale` 1 is a description of two sentences, for whom it is and how good it is.
    """
    del language
    slots = _slots(facts, draw)
    rules = ["for", f"quality_{facts.quality}"][: max(1, round(2 * scale))]
    return {
        "title": sentence(_EVENT.write(f"title_{facts.tone}", slots, draw)),
        "organizer": facts.company,
        "location": "online" if facts.remote else words.CITIES[facts.city].name,
        "description": " ".join(sentence(_EVENT.write(rule, slots, draw)) for rule in rules),
    }


def message(facts: EntityFacts, draw: Draw, language: str, scale: float) -> dict[str, str]:
    """Write sender, subject and text of a message that offers a job.

    Args:
        facts: Author, author_industry, author_role, and of the job: industry, role, seniority, skills, city, company,
            employer; quality.
        draw: Uniform numbers.
        language: Is ignored.
        scale: 1 for three sentences or so; at least the offer.
    """
    del language
    title = position_title(draw, "en", facts.industry, facts.role, facts.seniority)
    pay = 30 + 20 * facts.seniority + int(draw() * 12)
    slots: Facts = {**_slots(facts, draw), "title": title, "pay": f"{pay}-{pay + 8}"}
    length = max(1, round(3 * scale))
    parts = [
        (f"opening_{facts.quality}", 2),
        (f"employer_{facts.employer}", 1),
        ("detail", 4),
        (f"closing_{facts.quality}", 3),
    ]
    roles = words.ROLE_PHRASES["en"][facts.author_industry][facts.author_role]
    return {
        "sender": f"{facts.author}, {roles[int(draw() * len(roles))]}",
        "subject": _MESSAGE.write("subject", slots, draw),
        "text": " ".join(sentence(_MESSAGE.write(rule, slots, draw)) for rule, start in parts if start <= length),
    }


def ad(facts: EntityFacts, draw: Draw, language: str, scale: float) -> dict[str, str]:
    """Write advertiser and text of an ad, from company, employer, industry, topic, quality. `scale` 1: 3 sentences."""
    del language
    slots = _slots(facts, draw)
    rules = [f"employer_{facts.employer}", "for", f"quality_{facts.quality}"][: max(1, round(3 * scale))]
    return {
        "advertiser": facts.company,
        "text": " ".join(sentence(_AD.write(rule, slots, draw)) for rule in rules),
    }


def _slots(facts: EntityFacts, draw: Draw) -> Facts:
    industry = facts.industry
    skills = words.SKILL_PHRASES["en"][industry]
    return {
        "skill": skills[facts.skills[0]] if facts.skills else words.FIELDS["en"][industry],
        "duty": words.DUTIES["en"][industry],
        "field": words.FIELDS["en"][industry],
        "subject": words.TOPIC_PHRASES["en"][facts.topic],
        "company": facts.company,
        "city": words.CITIES[facts.city].name,
        "n": str(3 + int(draw() * 10)),
        "d": str(5 + int(draw() * 5)),
    }

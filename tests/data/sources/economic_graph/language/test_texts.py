"""Texts say their facts: a classifier that sees words only finds the facts of texts that it was not fitted on."""

import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from brew_data.sources.economic_graph import vocabulary as words
from brew_data.sources.economic_graph.facts import (
    EMPLOYERS,
    ENTITY_TYPES,
    QUALITIES,
    TONES,
    EntityFacts,
    MemberFacts,
    PositionFacts,
)
from brew_data.sources.economic_graph.language import (
    comment_text,
    entity_fields,
    jobs,
    member_profile,
    network,
    offers,
    posts,
    profiles,
    titles,
)
from brew_data.sources.economic_graph.language.grammar import Grammar

LOCALES = ("en_US", "de_DE", "fr_FR", "es_ES", "pt_BR")


def entity(rng: np.random.Generator, entity_type: str) -> EntityFacts:
    """Draw the facts of an entity."""
    industry = int(rng.integers(len(words.INDUSTRIES)))
    return EntityFacts(
        entity_type=entity_type,
        industry=industry,
        role=int(rng.integers(8)),
        seniority=int(rng.integers(len(words.SENIORITIES))),
        skills=tuple(rng.permutation(20)[: rng.integers(4)].tolist()),
        topic=int(rng.integers(len(words.TOPICS))),
        tone=int(rng.integers(len(TONES))),
        employer=int(rng.integers(len(EMPLOYERS))),
        quality=int(rng.integers(QUALITIES)),
        city=int(rng.integers(len(words.CITIES))),
        remote=bool(rng.random() < 0.3),
        company=words.company_names(rng, 1, industry)[0],
        author="Maya Chen",
        author_industry=int(rng.integers(len(words.INDUSTRIES))),
        author_role=int(rng.integers(8)),
        mutual=int(rng.integers(4)),
        query_role=int(rng.integers(8)),
        query_city=int(rng.integers(-1, len(words.CITIES))),
    )


def member(rng: np.random.Generator) -> MemberFacts:
    """Draw the facts of a member."""
    facts = [entity(rng, "person") for _ in range(2)]
    positions = [PositionFacts(f.industry, f.role, f.seniority, f.company, int(rng.integers(1, 9))) for f in facts]
    return MemberFacts(
        name="Maya Chen",
        position=positions[0],
        past=positions[1] if rng.random() < 0.5 else None,
        skills=facts[0].skills,
        topics=(facts[0].topic,) if rng.random() < 0.5 else (),
        city=facts[0].city,
        seeks_job=bool(rng.random() < 0.3),
        followers=10,
    )


def write(kind: str, rng: np.random.Generator, locale: str, scale: float = 1.0) -> dict[str, str]:
    """Draw facts and write the fields of a type, of a comment or of a profile."""
    if kind == "profile":
        return member_profile(rng, member(rng), locale, scale)
    if kind == "comment":
        return {"text": comment_text(rng, entity(rng, "post"), locale)}
    return entity_fields(rng, entity(rng, kind), locale, scale)


KINDS = (*ENTITY_TYPES, "profile", "comment")


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_clean(kind: str) -> None:
    rng = np.random.default_rng(0)
    names = set()
    for number in range(400):
        fields = write(kind, rng, LOCALES[number % 5], scale=(0.1, 1.0, 3.0)[number % 3])
        names.add(tuple(fields))
        for name, text in fields.items():
            assert text or (name == "skills" and kind == "profile"), name
            assert text == " ".join(text.split()), text
            assert not re.search(r"[{}<>]|\b(None|nan)\b", text), text
            assert not re.search(r"[,:;]\.|\.\.| [.,;]|\( | \)|(^|\s)\(\)", text), text
            assert not re.search(r"\b(\w+) \1 \1\b", text), text
    assert len(names) == 1  # all texts of a type have the same fields


@pytest.mark.parametrize("kind", KINDS)
def test_texts_depend_on_the_generator_only(kind: str) -> None:
    first, second = (write(kind, np.random.default_rng(7), "en_US") for _ in range(2))
    assert first == second


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_facts_give_different_texts(kind: str) -> None:
    rng = np.random.default_rng(0)
    facts, profile = entity(rng, "post" if kind == "comment" else kind), member(rng)
    texts = set()
    for _ in range(50):
        if kind == "profile":
            texts.add(str(member_profile(rng, profile, "en_US")))
        elif kind == "comment":
            texts.add(comment_text(rng, facts, "en_US"))
        else:
            texts.add(str(entity_fields(rng, facts, "en_US")))
    assert len(texts) >= (3 if kind == "comment" else 10)


# Words of all fields together, by type, at the usual scale: shortest text allowed, mean, longest text allowed.
@pytest.mark.parametrize(
    ("kind", "least", "mean", "most"),
    [
        ("job", 12, (25, 40), 70),
        ("post", 8, (18, 30), 50),
        ("profile", 15, (25, 50), 80),
        ("message", 12, (25, 45), 70),
    ],
)
def test_lengths(kind: str, least: int, mean: tuple[int, int], most: int) -> None:
    rng = np.random.default_rng(0)
    lengths = [len(" ".join(write(kind, rng, "en_US").values()).split()) for _ in range(300)]
    assert least <= min(lengths)
    assert mean[0] <= np.mean(lengths) <= mean[1]
    assert max(lengths) <= most


@pytest.mark.parametrize("kind", ["job", "post", "article", "company", "message"])
def test_scale_lengthens_texts(kind: str) -> None:
    lengths = []
    for scale in (0.5, 1.0, 2.0):
        rng = np.random.default_rng(0)
        lengths.append(sum(len(str(write(kind, rng, "en_US", scale))) for _ in range(100)))
    assert lengths[0] < lengths[1] <= lengths[2]


@cache
def corpus(kind: str) -> tuple[list[EntityFacts], list[dict[str, str]]]:
    """Draw the facts of many entities, and write their fields."""
    rng = np.random.default_rng(0)
    facts = [entity(rng, kind) for _ in range(1_500)]
    return facts, [entity_fields(rng, each, "en_US") for each in facts]


def accuracy(texts: list[str], classes: list[int]) -> float:
    """Fit a naive Bayes classifier on the words of two thirds of the texts, and measure it on the others."""
    half = len(texts) * 2 // 3
    counts: Any = CountVectorizer(token_pattern=r"\w+|[!?]+").fit_transform(texts)
    model = MultinomialNB(alpha=0.1).fit(counts[:half], classes[:half])
    return float(np.mean(model.predict(counts[half:]) == classes[half:]))


@pytest.mark.parametrize(
    ("kind", "fields", "fact", "least"),
    [
        ("job", ("title", "description"), "industry", 0.9),
        ("job", ("description",), "industry", 0.7),
        ("job", ("title",), "seniority", 0.8),
        ("job", ("description",), "employer", 0.8),
        ("job", ("description",), "quality", 0.9),
        ("message", ("text",), "quality", 0.9),
        ("message", ("subject", "text"), "industry", 0.7),
        ("post", ("text",), "tone", 0.8),
        ("post", ("text",), "quality", 0.9),
        ("post", ("text",), "topic", 0.5),
        ("notification", ("text",), "topic", 0.5),
        ("company", ("about",), "employer", 0.8),
        ("company", ("about",), "industry", 0.6),
        ("course", ("title", "description"), "quality", 0.9),
        ("group", ("name", "about"), "tone", 0.8),
        ("ad", ("text",), "employer", 0.8),
        ("ad", ("text",), "quality", 0.9),
        ("article", ("title", "text"), "topic", 0.7),
        ("event", ("title", "description"), "tone", 0.8),
    ],
)
def test_texts_say_their_facts(kind: str, fields: tuple[str, ...], fact: str, least: float) -> None:
    facts, written = corpus(kind)
    texts = [" ".join(each[name] for name in fields) for each in written]
    assert accuracy(texts, [getattr(each, fact) for each in facts]) >= least


def test_profiles_say_the_industry() -> None:
    rng = np.random.default_rng(0)
    facts = [member(rng)._replace(past=None) for _ in range(1_500)]
    texts = [" ".join(member_profile(rng, each, "en_US").values()) for each in facts]
    assert accuracy(texts, [each.position.industry for each in facts]) >= 0.9


@pytest.mark.parametrize(
    ("locale", "expected"),
    [("de_DE", "Wir suchen|Sie|Startup|Konzern|Stadt|Gehalt"), ("fr_FR", "vous|Vous|équipe|emploi|Salaire|La ville")],
)
def test_locales_have_their_language(locale: str, expected: str) -> None:
    rng = np.random.default_rng(0)
    texts = [entity_fields(rng, entity(rng, "job"), locale)["description"] for _ in range(100)]
    assert sum(bool(re.search(expected, text)) for text in texts) > 60
    assert not any(re.search(r"\b(the|you|with)\b", text) for text in texts)


def test_city_of_a_job_is_in_its_location() -> None:
    rng = np.random.default_rng(0)
    facts = entity(rng, "job")._replace(city=0, remote=False)
    assert entity_fields(rng, facts, "en_US")["location"] == "New York"
    assert entity_fields(rng, facts._replace(remote=True), "en_US")["location"] == "New York (remote)"


def test_query_says_what_was_searched_for() -> None:
    rng = np.random.default_rng(0)
    industry = words.INDUSTRIES.index("healthcare")
    facts = entity(rng, "search_result")._replace(industry=industry, role=1, query_role=0, query_city=0)
    queries = {entity_fields(rng, facts, "en_US")["query"] for _ in range(60)}
    assert all("nurse" in query for query in queries)
    assert any("new york" in query or "manhattan" in query for query in queries)
    alone = entity_fields(rng, facts._replace(query_city=-1), "en_US")["query"]
    assert alone == alone.strip().lower()


@pytest.mark.parametrize(("mutual", "expected"), [(0, "no mutual|new in"), (1, "one"), (7, "7")])
def test_common_connections(mutual: int, expected: str) -> None:
    rng = np.random.default_rng(0)
    facts = entity(rng, "person")._replace(mutual=mutual)
    assert re.search(expected, entity_fields(rng, facts, "en_US")["reason"])


def test_profile_of_a_member_who_looks_for_a_job() -> None:
    rng = np.random.default_rng(0)
    facts = member(rng)
    quiet = {member_profile(rng, facts._replace(seeks_job=False), "en_US")["headline"] for _ in range(30)}
    open_to_work = {member_profile(rng, facts._replace(seeks_job=True), "en_US")["headline"] for _ in range(30)}
    seeking = re.compile("open to|looking for|available from")
    assert not any(map(seeking.search, quiet))
    assert all(map(seeking.search, open_to_work))


@pytest.mark.parametrize(
    "expected",
    ["a nurse", "an SEO specialist", "a university teacher", "an auditor", "a UX researcher", "an HR generalist"],
)
def test_articles(expected: str) -> None:
    phrases = [phrase for industry in titles.ROLES_WITH_ARTICLE for role in industry for phrase in role]
    assert expected in phrases


def grammars() -> list[Grammar]:
    tables = [jobs._GRAMMARS, jobs._QUERY_GRAMMARS, posts._GRAMMARS, profiles._GRAMMARS, titles._TITLES]
    single = [
        network._PERSON,
        network._COMPANY,
        network._GROUP,
        offers._COURSE,
        offers._EVENT,
        offers._MESSAGE,
        offers._AD,
    ]
    return [grammar for table in tables for grammar in table.values()] + single


def test_languages_have_the_same_rules() -> None:
    for table in (jobs._RULES, profiles._RULES):
        assert {frozenset(rules) for rules in table.values()} == {frozenset(table["en"])}
    assert all(set(rules) <= set(posts._RULES["en"]) for rules in posts._RULES.values())


def test_no_alternative_is_written_twice_or_with_a_typing_error() -> None:
    for grammar in grammars():
        for alternatives in grammar._rules.values():
            for pattern, _ in alternatives:
                assert pattern == " ".join(pattern.split())
                assert pattern.count("(") == pattern.count(")")

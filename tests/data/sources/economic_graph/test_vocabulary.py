import numpy as np
import pytest

from brew_data.sources.economic_graph import vocabulary as words


def test_sizes() -> None:
    assert len(words.INDUSTRIES) == len(set(words.INDUSTRIES)) >= 16
    assert {len(roles) for roles in words.ROLES} == {8}
    assert {len(skills) for skills in words.SKILLS} == {20}
    assert len(words.TOPICS) >= 40
    assert len(words.CITIES) >= 60
    assert all(len(set(topics)) == 4 for topics in words.INDUSTRY_TOPICS)


def test_names_of_roles_and_skills_are_different() -> None:
    for names in (words.ROLES, words.SKILLS):
        flat = [name.lower() for industry in names for name in industry]
        assert len(flat) == len(set(flat))


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_every_concept_has_phrases_in_every_language(language: str) -> None:
    tables = (words.ROLE_PHRASES, words.SKILL_PHRASES)
    concepts = [phrases for table in tables for industry in table[language] for phrases in industry]
    concepts += [*words.FIELDS[language], *words.DUTIES[language], *words.DEGREES[language]]
    concepts += [*words.TOPIC_PHRASES[language], *words.CITY_PHRASES[language]]
    for phrases in concepts:
        assert phrases
        for phrase in phrases:
            assert phrase == " ".join(phrase.split())
            assert phrase
            assert not set(phrase) & set("{}|<>")


def test_translations_differ_from_english() -> None:
    """A row with a missing column would shift the languages."""
    for names, german in zip(words.ROLES, words.ROLE_PHRASES["de"], strict=True):
        same = [name for name, (translation,) in zip(names, german, strict=True) if name == translation]
        assert len(same) <= 3


def test_locales_have_names() -> None:
    assert {"en_US", "de_DE", "fr_FR", "es_ES", "pt_BR"} <= set(words.LOCALES)
    for locale in words.LOCALES:
        assert len(words.FIRST_NAMES[locale]) >= 8
        assert len(words.LAST_NAMES[locale]) >= 8
    assert words.FIRST_NAMES["de_AT"] == words.FIRST_NAMES["de_DE"] != words.FIRST_NAMES["en_US"]
    assert words.FIRST_NAMES["en_IN"] != words.FIRST_NAMES["en_US"]


@pytest.mark.parametrize(("locale", "language"), [("de_CH", "de"), ("en_US", "en"), ("it_IT", "en"), ("pt", "pt")])
def test_language_of(locale: str, language: str) -> None:
    assert words.language_of(locale) == language


@pytest.mark.parametrize("count", [0, 5, 1_000])
def test_company_names_are_different_and_say_the_industry(count: int) -> None:
    names = words.company_names(np.random.default_rng(0), count, 0)
    assert len(names) == len(set(names)) == count
    assert {name.split()[-1] for name in names} <= {"Labs", "Software", "Systems", "Cloud"}


def test_company_names_beyond_all_combinations() -> None:
    assert len(words.company_names(np.random.default_rng(0), 40_000, 0)) == 40_000

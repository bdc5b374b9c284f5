import numpy as np
import pytest

from brew_data.sources.economic_graph import vocabulary as words
from brew_data.sources.economic_graph.language import contacts
from brew_data.sources.economic_graph.language.contacts import CONTACT_KINDS, plant_contact, plant_decoy

TEXT = "Senior nurse, ten years on the ward."


@pytest.mark.parametrize("locale", [*words.LOCALES, "it_IT"])
def test_spans_are_the_personal_data(locale: str) -> None:
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(200):
        text, spans = plant_contact(rng, TEXT, locale)
        assert TEXT in text
        assert 1 <= len(spans) <= 2
        for start, end, kind in spans:
            kinds.add(kind)
            value = text[start:end]
            assert value
            assert value == value.strip(" .,:")
            assert value not in TEXT
            assert "#" not in text
            if kind in ("email", "handle"):
                assert "@" in value or "[at]" in value
            if kind == "phone":
                assert sum(character.isdigit() for character in value) >= 7
        rest = text.replace(TEXT, "")
        for start, end, _ in spans:
            rest = rest.replace(text[start:end], "")
        assert not set(rest) & set("@<>{}0123456789")  # nothing personal is outside the spans
    assert kinds == set(CONTACT_KINDS)


def test_contacts_of_empty_texts() -> None:
    text, spans = plant_contact(np.random.default_rng(0), "", "en_US")
    assert text == text.strip()
    assert all(text[span.start : span.end] for span in spans)


def test_contacts_depend_on_the_generator_only() -> None:
    first, second = (plant_contact(np.random.default_rng(3), TEXT, "fr_FR") for _ in range(2))
    assert first == second


def test_formats_of_a_country() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        address = contacts._personal_data(rng.random, "en_GB")["address"]
        german = contacts._personal_data(rng.random, "de_DE")["phone"]
        assert any(part in german for part in ("30", "171", "89"))
        assert "London" in address or "Leeds" in address or "Bristol" in address
        assert "555" in contacts._personal_data(rng.random, "en_US")["phone"]


@pytest.mark.parametrize("locale", ["en_US", "de_DE", "fr_FR", "es_ES", "pt_BR"])
def test_decoys_have_numbers_but_no_contact(locale: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        text = plant_decoy(rng, TEXT, locale)
        assert text.startswith(f"{TEXT} ")
        assert any(character.isdigit() for character in text)
        assert "{" not in text

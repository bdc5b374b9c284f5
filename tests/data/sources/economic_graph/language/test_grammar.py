import numpy as np
import pytest

from brew_data.sources.economic_graph.language.grammar import Grammar, sentence, uniform_draws


def test_rules_facts_and_alternatives() -> None:
    grammar = Grammar(
        {"greeting": ("Hello {who}!", "Dear {who}, {again}"), "again": ("it is {name}.",), "who": ("all",)}
    )
    assert grammar.facts == {"name"}
    draw = uniform_draws(np.random.default_rng(0))
    texts = {grammar.write("greeting", {"name": ("Ann", "Bob")}, draw) for _ in range(100)}
    assert texts == {"Hello all!", "Dear all, it is Ann.", "Dear all, it is Bob."}


def test_a_fact_takes_the_place_of_a_rule() -> None:
    grammar = Grammar({"text": ("{who}",), "who": ("all",)})
    assert grammar.write("text", {"who": "me"}, lambda: 0.0) == "me"


@pytest.mark.parametrize("text", ["100 % of {x}", "%s and {x}", "{x} 5%"])
def test_percent_signs_are_text(text: str) -> None:
    assert Grammar({"text": (text,)}).write("text", {"x": "y"}, lambda: 0.0) == text.replace("{x}", "y")


def test_unknown_name() -> None:
    with pytest.raises(KeyError, match="name"):
        Grammar({"text": ("{name}",)}).write("text", {}, lambda: 0.0)


def test_alternatives_are_equally_likely() -> None:
    grammar, draw = Grammar({"text": ("a", "b", "c")}), uniform_draws(np.random.default_rng(0))
    texts = [grammar.write("text", {}, draw) for _ in range(3_000)]
    assert all(abs(texts.count(letter) - 1_000) < 120 for letter in "abc")


def test_sentence() -> None:
    assert (sentence("pandas and SQL"), sentence("")) == ("Pandas and SQL", "")

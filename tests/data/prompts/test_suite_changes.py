"""Changes of a suite by name, which studies use to compare prompts."""

import pytest

from brew_data.prompts.suite import changed_suite, load_suite
from brew_platform.errors import ConfigError

MASKED = 'entities.movie.phrases=["movie {{ title | code }}", "{{ genres }}"]'


def test_tasks_surfaces_and_actions_are_named() -> None:
    suite = load_suite(
        "movielens",
        ["tasks.movie_rating.history.name=round_robin", "surfaces.ratings.actions.rated_4.label=good", MASKED],
    )
    assert suite.task("movie_rating").history.name == "round_robin"
    assert suite.surface("ratings").label("rated_4") == "good"
    assert suite.entities["movie"].phrases[0] == "movie {{ title | code }}"
    assert suite.task("movie_rating").history.max_interactions == 200  # the rest is kept


def test_a_label_keeps_its_characters() -> None:
    suite = load_suite("economic_graph", ["surfaces.jobs.actions.skip.label=no"])
    assert suite.surface("jobs").label("skip") == "no"


def test_without_changes_a_suite_is_the_same() -> None:
    suite = load_suite("professional_network")
    assert changed_suite(suite, []) is suite
    assert changed_suite(suite, ["name=other"]).to_dict() == {**suite.to_dict(), "name": "other"}


def test_a_code_stands_for_its_text() -> None:
    template = load_suite("movielens", [MASKED]).entities["movie"]
    texts = [template.render({"title": title, "genres": "drama"}) for title in ("Heat", "Heat", "Up")]
    assert texts[0] == texts[1] != texts[2]
    assert "Heat" not in texts[0]
    assert "drama" in texts[0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("tasks.movie.history.name=round_robin", "names 'movie', which the suite does not have. Use .*movie_rating"),
        ("tasks.movie_rating.histories.name=x", "unknown key"),
        ("surfaces.ratings.actions.rated_4.label='5'", "two or more actions with different names"),
        ("tasks.movie_rating", "not of the form"),
    ],
)
def test_an_invalid_change_is_one_sentence(change: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_suite("movielens", [change])

"""Numbers as percentile buckets: monotone, stable in serving, and never made from a part of a number."""

import json
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.prompts.budget import Budget
from brew_data.prompts.percentiles import BUCKETS, LEVELS, percentile_cuts, percentile_text
from brew_data.prompts.phrases import Phrase
from brew_data.prompts.templates import RecordTemplate
from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.errors import ConfigError, UserError

NUMBERS = st.lists(st.floats(-1e6, 1e6, allow_nan=False) | st.integers(-5, 5), min_size=1, max_size=80)


def texts(numbers: list[float]) -> list[str]:
    cuts = percentile_cuts(np.array(numbers, float))
    return [percentile_text(str(number), cuts) for number in numbers]


def test_each_bucket_has_its_share_of_different_numbers() -> None:
    counts = {bucket: texts(list(range(1000))).count(bucket) for bucket in BUCKETS}
    assert counts == {
        "bottom 10%": 100,
        "bottom 25%": 150,
        "bottom 50%": 250,
        "top 50%": 250,
        "top 25%": 150,
        "top 10%": 50,
        "top 5%": 40,
        "top 1%": 10,
    }


def test_a_frequent_number_is_in_the_bucket_of_its_middle() -> None:
    assert texts([0.0] * 60 + [5.0] * 40) == ["bottom 50%"] * 60 + ["top 25%"] * 40
    assert set(texts([7.0] * 9)) == {"top 50%"}


@given(NUMBERS)
def test_larger_numbers_are_never_in_lower_buckets(numbers: list[float]) -> None:
    places = [BUCKETS.index(text) for text in texts(sorted(numbers))]
    assert places == sorted(places)
    cuts = percentile_cuts(np.array(numbers, float))
    assert len(cuts) == len(LEVELS)
    assert all(a <= b for a, b in pairwise(cuts))
    assert percentile_text(str(max(numbers) + 1), cuts) == "top 1%"
    assert percentile_text(str(min(numbers) - 1), cuts) == "bottom 10%"


@given(NUMBERS)
def test_buckets_are_the_same_after_json(numbers: list[float]) -> None:
    cuts = percentile_cuts(np.array(numbers, float))
    assert json.loads(json.dumps(cuts)) == cuts


@pytest.mark.parametrize("text", ["20s", "about 500", "1,200", "12 years", "nan", "inf", "1_000", "٣", "yes"])
def test_other_text_is_shown_as_it_is_written(text: str) -> None:
    assert percentile_text(text, [1.0] * len(LEVELS)) == text
    assert percentile_text(text, None) == text


def test_a_number_without_quantiles_is_refused_and_without_training_values_shown() -> None:
    with pytest.raises(UserError, match="no quantiles of its field.*brew360 data build"):
        percentile_text("5", None)
    assert percentile_cuts(np.empty(0)) == []
    assert percentile_text("5", []) == "5"


CUTS = {"followers": [float(cut) for cut in range(10, 80, 10)]}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ followers | percentile }}", "top 1%"),
        ("followers: {{ followers | percentile }}!", "followers: top 1%!"),
        ("{{ followers | percentile | upper }}", "TOP 1%"),
        ("{% if title %}{{ title }} {% endif %}{{ followers | percentile }}", "top 1%"),
        ("{{ followers }} is {{ followers | percentile }}", "75 is top 1%"),
        ("{{ title }}{{ followers | percentile }}", None),
    ],
)
def test_a_template_shows_a_bucket(source: str, expected: str | None) -> None:
    phrase = Phrase(source, ["title", "followers"], "p", CUTS)
    assert phrase.render({"followers": "75"}) == expected
    assert pickle.loads(pickle.dumps(phrase)).render({"followers": "75"}) == expected
    assert phrase.percentiles == {"followers"}
    assert phrase.render({}) is None


@pytest.mark.parametrize(
    "source", ["{{ 'x' | percentile }}", "{{ title | upper | percentile }}", "{{ a | percentile(3) }}"]
)
def test_the_filter_applies_to_a_field_only(source: str) -> None:
    with pytest.raises(ConfigError, match=r"uses the filter percentile otherwise than on a field. Write \{\{ name"):
        Phrase(source, ["title", "a"], "p")


@pytest.mark.parametrize("cuts", [[1.0], [float(7 - n) for n in range(7)]])
def test_malformed_quantiles_are_refused(cuts: list[float]) -> None:
    with pytest.raises(ConfigError, match="those of followers are not 7 ascending numbers"):
        RecordTemplate(fields=["followers"], phrases=[], quantiles={"followers": cuts})
    with pytest.raises(ConfigError, match="quantiles names other, which `fields` does not declare"):
        RecordTemplate(fields=["followers"], phrases=[], quantiles={"other": CUTS["followers"]})


def test_a_number_that_exceeds_its_budget_is_left_out_and_not_cut(tokenizer: Tokenizer) -> None:
    template = RecordTemplate(
        fields=["title", "followers"],
        phrases=["{{ title }}", "{{ followers | percentile }}"],
        max_tokens={"followers": 2},
        quantiles=CUTS,
    )
    fit = Budget(tokenizer).fit
    ids, cut = fit(template, {"title": "nurse", "followers": "12345678"}, limit=50)
    assert tokenizer.decode(ids) == "nurse\n"
    assert cut.fields == 1
    ids, cut = fit(template, {"title": "nurse", "followers": "75"}, limit=50)
    assert tokenizer.decode(ids) == "nurse\ntop 1%\n"
    assert not cut

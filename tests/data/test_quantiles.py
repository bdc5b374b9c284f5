"""Quantiles of a data set: from training rows only, and stored with the suite."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.templates import RecordForm, RecordTemplate
from brew_data.quantiles import with_quantiles
from brew_data.schema import TIMESTAMP

DAY = datetime(2025, 1, 1, tzinfo=UTC)
LATER = datetime(2025, 2, 1, tzinfo=UTC)
UNTIL = int(DAY.timestamp() * 1_000_000)
SUITE = TaskSuite(
    name="numbers",
    profile=RecordTemplate(fields=["title", "followers"], phrases=["{{ followers | percentile }}"]),
    entities={
        "post": RecordTemplate(
            fields=["topic", "likes"],
            phrases=["{{ topic }}", "{{ likes }}"],
            alternatives=[RecordForm(phrases=["{{ topic }}", "{{ likes | percentile }} of likes"])],
        ),
        "job": RecordTemplate(fields=["title"], phrases=["{{ title }}"]),
    },
    surfaces=[],
)


def members(followers: list[object], kind: pa.DataType) -> pa.Table:
    """Make members; the last one opted out."""
    count = len(followers)
    profile = pa.array([{"followers": value} for value in followers], pa.struct({"followers": kind}.items()))
    return pa.table({"profile": profile, "opted_out": [False] * (count - 1) + [True]})


def entities(likes: list[int], times: list[datetime], kind: str = "post") -> pa.Table:
    return pa.table(
        {
            "entity_type": [kind] * len(likes),
            "created_at": pa.array(times, TIMESTAMP),
            "fields": [{"likes": value} for value in likes],
        }
    )


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, 3, None, 900], pa.int64()),
        ([1.0, 2.0, 3.0, float("nan"), 900.0], pa.float64()),
        ([Decimal(1), Decimal(2), Decimal(3), None, Decimal(900)], pa.decimal128(9, 2)),
        (["1", " 2 ", "3.0", "many", "900"], pa.string()),
    ],
)
def test_quantiles_are_those_of_members_who_did_not_opt_out(values: list[object], kind: pa.DataType) -> None:
    suite = with_quantiles(SUITE, [members(values, kind)], [], until=UNTIL)
    cuts = suite.profile.quantiles["followers"]
    assert (cuts[0], cuts[2]) == (1.0, 2.0)
    assert 3.0 <= cuts[-1] < 3.1
    assert suite.profile_text({"followers": 2}) == "top 50%\n"


def test_quantiles_are_those_of_entities_of_the_type_before_the_cut() -> None:
    parts = [entities([1, 2, 900], [DAY, DAY, LATER]), entities([3], [DAY]), entities([700], [DAY], "job")]
    suite = with_quantiles(SUITE, [], parts, until=UNTIL)
    assert max(suite.entities["post"].quantiles["likes"]) < 3.1
    assert suite.entities["job"] == SUITE.entities["job"]


def test_the_suite_keeps_quantiles_and_is_unchanged_without_percentiles() -> None:
    suite = with_quantiles(SUITE, [members([5, 6], pa.int64())], [entities([1], [DAY])], until=UNTIL)
    assert suite != SUITE
    assert with_quantiles(suite, [members([100, 200], pa.int64())], [], until=UNTIL) is suite
    assert TaskSuite.from_dict(suite.to_dict()) == suite
    plain = replace(SUITE, profile=SUITE.entities["job"], entities={"job": SUITE.entities["job"]})
    assert with_quantiles(plain, [], [], until=UNTIL) is plain


@pytest.mark.parametrize("kind", [pa.bool_(), pa.list_(pa.int64()), pa.string()])
def test_a_field_without_numbers_is_shown_as_it_is_written(kind: pa.DataType) -> None:
    suite = with_quantiles(SUITE, [members([None, None], kind)], [], until=UNTIL)
    assert suite.profile.quantiles == {"followers": []}
    assert suite.profile_text({"followers": 12}) == "12\n"
    absent = pa.table({"profile": [{"title": "nurse"}], "opted_out": [False]})
    assert with_quantiles(SUITE, [absent], [], until=UNTIL).profile.quantiles == {"followers": []}

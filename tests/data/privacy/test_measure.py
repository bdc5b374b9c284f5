"""Recall counts identifiers that are removed as a whole, precision those that are really there."""

import pyarrow as pa
import pytest

from brew_data.privacy.detector import EMAIL, PHONE
from brew_data.privacy.measure import RemovalQuality, measure_removal
from brew_data.privacy.redaction import Identifier


def test_recall_and_precision_of_texts() -> None:
    quality = RemovalQuality()
    quality.add("mail  ana@example.com", [Identifier("mail", 6, 21)])  # redaction reads it with one space
    quality.add("write to Ana", [Identifier("name", 9, 12)])  # missed
    quality.add("call 202-555-0142", [])  # not planted
    quality.add("nothing here", [])
    figures = quality.figures()
    assert (figures["recall"], figures["precision"], figures["touched"]) == (0.5, 0.5, 0.5)
    assert figures["letter_precision"] == pytest.approx(13 / 23)
    assert figures["kinds"] == {
        "mail": {"planted": 1, "removed": 1, "recall": 1.0},
        "name": {"planted": 1, "removed": 0, "recall": 0.0},
    }
    assert figures["found"] == {
        EMAIL: {"found": 1, "right": 1, "precision": 1.0},
        PHONE: {"found": 1, "right": 0, "precision": 0.0},
    }
    assert RemovalQuality().figures()["recall"] == 1.0


def test_an_identifier_of_which_a_part_remains_is_touched_and_not_recalled() -> None:
    quality = RemovalQuality()
    text = "Ana ana@example.com"
    quality.add(text, [Identifier("card", 0, len(text))])
    figures = quality.figures()
    assert (figures["recall"], figures["touched"], figures["precision"]) == (0.0, 1.0, 1.0)


def test_the_fields_of_tables_are_measured() -> None:
    members = pa.table(
        {"member_id": ["m1", "m2"], "profile": [{"title": "a@b.com", "age": 3}, {"title": "nurse", "age": None}]}
    )
    entities = pa.table({"entity_id": ["m1"], "fields": [{"title": "c@d.org"}]})
    planted = pa.table(
        {"table": ["members"], "row_id": ["m1"], "field": ["title"], "start": [0], "end": [7], "kind": ["mail"]}
    )
    figures = measure_removal({"members": members, "entities": entities}, planted)
    assert (figures["recall"], figures["precision"]) == (1.0, 0.5)

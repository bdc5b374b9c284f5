"""Scored rows: the schema, the checks, and the files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brew_eval.scored_rows import SCORED_ROWS, ScoredRows
from brew_platform.errors import ConfigError, DataError, UserError

from .rows import DAY, columns, info, scored


def test_a_file_keeps_rows_and_origin(tmp_path: Path) -> None:
    rows = scored(columns(), baseline="popularity", seed=3, train_until=5)
    rows.write(tmp_path / "rows.parquet")
    read = ScoredRows.read(tmp_path / "rows.parquet")
    assert read.table.equals(rows.table)
    assert read.table.schema.equals(SCORED_ROWS)
    assert (read.info, read.digest, read.info.name) == (rows.info, rows.digest, "popularity")


def test_rows_are_sorted_and_missing_columns_are_null() -> None:
    data = columns(50)
    order = np.random.default_rng(0).permutation(50)
    shuffled = pa.table({name: np.asarray(data[name])[order] for name in data if name not in ("best", "locale")})
    rows = ScoredRows.of(shuffled, info())
    assert rows.column("row_id").tolist() == list(range(50))
    assert np.isnan(rows.column("best")).all()
    codes, values = rows.codes("locale")
    assert (codes.tolist(), values) == ([-1] * 50, [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"row_id": [1, 1]}, "twice"),
        ({"surface": ["feed", "jobs"]}, "several surfaces"),
        ({"is_trained": [True, False]}, "both trained and not trained"),
        ({"slate": [4, 4], "history": [2, 3]}, "not scored at one instant"),
        ({"history": [-1, 0]}, "negative history"),
        ({"member": ["a", None]}, "nulls"),
        ({"score": ["a", "b"]}, "must be double"),
        ({"title": ["a", "b"]}, "unknown column 'title'"),
    ],
)
def test_invalid_rows_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        scored({**columns(2), **changes})


def test_a_missing_column_is_refused() -> None:
    with pytest.raises(DataError, match="no column 'score'"):
        ScoredRows.of(pa.table(columns(2)).drop_columns("score"), info())


def test_rows_inside_the_training_period_are_refused() -> None:
    with pytest.raises(DataError, match="1 of 2 rows .* inside the training period"):
        scored(columns(2), train_until=DAY * 20_000)


@pytest.mark.parametrize("changes", [{"model": ""}, {"history": "future"}])
def test_an_incomplete_origin_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        scored(columns(2), **changes)


def test_a_file_without_metadata_or_of_another_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns(2)), path)
    with pytest.raises(DataError, match="metadata"):
        ScoredRows.read(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be read"):
        ScoredRows.read(path)
    document = '{"format_version": 9, "model": "m", "suite": "s", "data_digest": "d"}'
    pq.write_table(pa.table(columns(2)).replace_schema_metadata({"brew360.scored_rows": document}), path)
    with pytest.raises(DataError, match="format_version 9"):
        ScoredRows.read(path)


def test_the_digest_depends_on_rows_and_labels_only() -> None:
    data = columns(20)
    rows = scored(data)
    assert rows.with_scores(np.full(20, 0.5)).digest == rows.digest
    assert scored({**data, "label": ~data["label"]}).digest != rows.digest
    other = scored({**data, "label": ~data["label"]}, model="other")
    with pytest.raises(UserError, match="not scored on the same rows: they differ in label"):
        other.aligned_to(rows)
    with pytest.raises(UserError, match="no scored rows of the task 'lik'"):
        rows.of_tasks(["lik"])


def test_other_scores_drop_probabilities() -> None:
    data = {**columns(2), "probabilities": [[0.1, 0.9], [0.2, 0.8]]}
    rows = scored(data).with_scores(np.array([0.5, np.nan]), calibration="c")
    assert rows.table["probabilities"].null_count == 2
    assert rows.table["score"].null_count == 1
    assert rows.info == replace(info(), calibration="c")

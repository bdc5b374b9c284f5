"""The check of a data set whose source returns its tables in batches."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from brew_cluster.jobs.dataset_check import check_dataset
from brew_cluster.jobs.dataset_config import load_dataset_config
from brew_data.schema import read_tables
from brew_data.sources.synthetic.generator import generate
from brew_data.sources.synthetic.source import Synthetic

SMALL = [
    "source_config.members=100", "source_config.jobs=30", "source_config.posts=30",
    "source_config.interactions_per_member=20", "source_config.pii_share=0.5", "pairs=0",
]  # fmt: skip


def in_batches(source: Synthetic, *, fault: bool = False) -> Iterator[tuple[str, pa.Table]]:
    for name, table in generate(source.config).present().items():
        if fault and name == "interactions":
            place = table.column_names.index("entity_id")
            table = table.set_column(place, "entity_id", pa.array([*table["entity_id"].to_pylist()[:-1], "nothing"]))
        for start in range(0, table.num_rows, 170):
            yield name, table.slice(start, 170)


def test_batches_give_the_same_tables_and_problems_as_a_source_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_dataset_config("synthetic", SMALL)
    whole = check_dataset(config, tables_folder=tmp_path / "whole")
    monkeypatch.setattr(Synthetic, "batches", in_batches, raising=False)
    seen: list[int] = []
    parts = check_dataset(config, tables_folder=tmp_path / "parts", on_rows=seen.append)
    assert (parts.errors, whole.errors) == ([], [])
    assert parts.problems == whole.problems
    assert read_tables(tmp_path / "parts") == read_tables(tmp_path / "whole")
    assert (parts.written, parts.split) == (whole.written, whole.split)
    assert parts.checks.null_shares() == pytest.approx(whole.checks.null_shares())
    assert parts.written is not None
    assert seen == sorted(seen)
    assert seen[-1] > sum(parts.written.rows.values())  # which have no members who opted out


def test_a_row_that_breaks_the_schema_is_an_error_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(source: Synthetic) -> Iterator[tuple[str, pa.Table]]:
        return in_batches(source, fault=True)

    monkeypatch.setattr(Synthetic, "batches", faulty, raising=False)
    config = load_dataset_config("synthetic", SMALL)
    [problem] = check_dataset(config).errors
    assert problem.message.startswith("table interactions: row ")
    assert "names entity_id 'nothing', which the entities table does not have" in problem.message


def test_a_source_without_its_oracle_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_oracle(source: Synthetic) -> Iterator[tuple[str, pa.Table]]:
        return ((name, rows) for name, rows in in_batches(source) if name != "oracle")

    monkeypatch.setattr(Synthetic, "batches", without_oracle, raising=False)
    [problem] = check_dataset(load_dataset_config("synthetic", SMALL)).errors
    assert "has_true_probabilities is True, but its tables have no oracle" in problem.message

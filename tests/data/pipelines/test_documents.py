"""Bins are built shard by shard: the same files whatever happens in between. These tests run without Ray."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brew_data.packed_bins.plan import PLAN_FILE, BinsPlan
from brew_data.pipelines import shard_packing
from brew_data.pipelines.corpus import corpus_tokenizer
from brew_data.pipelines.documents import build_bins, compile_documents
from brew_data.pipelines.member_groups import read_members
from brew_data.pipelines.shard_packing import WORK
from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.prompts.variation import VariationConfig
from brew_data.schema import Tables, micros, read_tables, write_tables
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate
from brew_data.split import Split, SplitConfig
from brew_data.table_shards import TableShards, shard_file
from brew_platform.errors import UserError

ROWS_PER_SHARD = 70


class Built(NamedTuple):
    """Small tables in several shards, and their bins."""

    tables: Tables
    folder: Path  # of the tables
    compiler: PromptCompiler
    split: Split
    bins: Path
    plan: BinsPlan

    def build(self, out: Path, **arguments: object) -> BinsPlan:
        return build_bins(self.folder, self.compiler, self.split, out, bins_per_file=4, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("tables")
    tables = generate(SyntheticConfig(members=40, jobs=30, posts=50, interactions_per_member=30, opted_out_share=0.1))
    write_tables(tables, folder, rows_per_shard=ROWS_PER_SHARD)
    assert TableShards.open(folder).count >= 8
    split = Split.of(micros(tables.interactions).to_numpy(), SplitConfig(last_days=30))
    suite = load_suite("economic_graph")
    tokenizer = corpus_tokenizer(folder, suite, split, 400)
    compiler = PromptCompiler(suite, tokenizer, PromptFormat(context_length=384, head_tokens=128, question_tokens=64))
    built = Built(tables, folder, compiler, split, folder / "bins", BinsPlan.load)  # type: ignore[arg-type]
    return built._replace(plan=built.build(folder / "bins"))


def packed(folder: Path) -> Counter[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The documents of all bins, as (token ids, roles); checks the numbers of the bins."""
    found: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
    expected_id = 0
    for file in BinsPlan.load(folder).files:
        for row in pq.read_table(folder / file.name).to_pylist():
            assert row["bin_id"] == expected_id
            expected_id, start = expected_id + 1, 0
            for length in row["doc_lengths"]:
                end = start + length
                found[tuple(row["input_ids"][start:end]), tuple(row["roles"][start:end])] += 1
                start = end
            assert start == len(row["input_ids"]) == len(row["roles"]) <= 384
    return found


def compiled(built: Built, **arguments: object) -> Counter[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The documents of all shards, without bins."""
    found: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
    for shard in range(TableShards.open(built.folder).count):
        members = read_members(built.folder, shard, until=built.split.train_until)
        for row in compile_documents(members, built.compiler, **arguments).to_pylist():  # type: ignore[arg-type]
            found[tuple(row["ids"]), tuple(row["roles"])] += 1
    return found


def test_every_document_is_in_one_bin_and_the_plan_counts_them(built: Built) -> None:
    documents = compiled(built)
    assert packed(built.bins) == documents
    built.plan.verify_files(built.bins)
    assert built.plan == BinsPlan.load(built.bins)
    assert built.plan.n_documents == documents.total()
    assert built.plan.n_tokens == sum(len(ids) * count for (ids, _), count in documents.items())
    assert built.plan.fill > 0.85  # few short documents for small bins
    assert not (built.bins / WORK).exists()


def test_shards_give_the_same_documents_as_one(built: Built, tmp_path: Path) -> None:
    write_tables(built.tables, tmp_path / "tables")
    build_bins(tmp_path / "tables", built.compiler, built.split, tmp_path / "bins")
    assert packed(tmp_path / "bins") == packed(built.bins)


def test_the_order_and_number_of_workers_do_not_change_the_plan(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backwards(function, shards, **arguments):  # type: ignore[no-untyped-def]
        for shard in reversed(shards):
            for table in function(shard, **arguments):
                yield from table.to_pylist()

    monkeypatch.setattr(shard_packing, "run_shards", backwards)
    assert built.build(tmp_path).plan_hash == built.plan.plan_hash


def test_a_part_of_the_members_reads_its_shards_only(built: Built, tmp_path: Path) -> None:
    parts = [(0.0, 0.3), (0.3, 1.0)]
    for number, part in enumerate(parts):
        built.build(tmp_path / str(number), members=part)
    assert packed(tmp_path / "0") + packed(tmp_path / "1") == packed(built.bins)


def test_copies_add_documents_with_parts_of_the_history(built: Built, tmp_path: Path) -> None:
    once = VariationConfig(share=0.5)
    several = VariationConfig(share=0.5, copies=3, least_shown=0.5)
    first, all_ = compiled(built, variation=once), compiled(built, variation=several)
    assert first <= all_
    added = sum(sum(roles) * count for (_, roles), count in (all_ - first).items())
    trained = sum(sum(roles) * count for (_, roles), count in first.items())
    assert 1.3 < added / trained < 1.7  # two copies with three quarters of the answers each
    built.build(tmp_path, variation=several)
    assert packed(tmp_path) == all_


@pytest.mark.parametrize("stage", ["_pack_shard", "_write_shard"])
@pytest.mark.parametrize("after", [0, 3])
def test_a_killed_build_continues_with_the_shards_that_are_left(
    built: Built, stage: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = getattr(shard_packing, stage), []

    def counting(shard: int, **arguments: object) -> Iterator[pa.Table]:
        calls.append(shard)
        yield from original(shard, **arguments)

    def failing(shard: int, **arguments: object) -> Iterator[pa.Table]:
        if len(calls) == after:
            raise RuntimeError("killed")
        yield from counting(shard, **arguments)

    monkeypatch.setattr(shard_packing, stage, failing)
    with pytest.raises(RuntimeError, match="killed"):
        built.build(tmp_path)
    assert not (tmp_path / PLAN_FILE).exists()
    finished = list(calls)
    assert len(finished) == after
    calls.clear()
    monkeypatch.setattr(shard_packing, stage, counting)
    progress: list[tuple[int, int]] = []
    plan = built.build(tmp_path, on_progress=lambda done, total: progress.append((done, total)))
    assert plan == built.plan
    assert calls
    assert not set(calls) & set(finished)
    assert progress[-1] == (plan.n_bins, plan.n_bins)
    assert packed(tmp_path) == packed(built.bins)


def test_a_torn_file_of_a_killed_shard_is_replaced(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(shard: int, *, build: shard_packing._Build) -> Iterator[pa.Table]:
        build.bins(shard).write_bytes(b"ARROW1 torn")
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(shard_packing, "_pack_shard", torn)
        with pytest.raises(RuntimeError, match="killed"):
            built.build(tmp_path)
    assert built.build(tmp_path) == built.plan


@pytest.mark.parametrize("changed", ["tables", "split", "members", "variation"])
def test_a_build_of_something_else_starts_over(
    built: Built, changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tables"
    shutil.copytree(built.folder, folder, ignore=shutil.ignore_patterns("bins"))
    arguments: dict[str, object] = {}
    split = built.split

    def failing(shard: int, **arguments: object) -> Iterator[pa.Table]:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(shard_packing, "_write_shard", failing)
        with pytest.raises(RuntimeError, match="killed"):
            build_bins(folder, built.compiler, split, tmp_path / "bins", bins_per_file=4)
    if changed == "tables":
        fewer = built.tables.interactions.slice(0, 300)
        write_tables(
            Tables(members=built.tables.members, entities=built.tables.entities, interactions=fewer),
            folder,
            rows_per_shard=ROWS_PER_SHARD,
        )
    elif changed == "split":
        split = Split(train_until=built.split.train_until - 10 * 86_400_000_000, until=built.split.until)
    elif changed == "members":
        arguments = {"members": (0.0, 0.5)}
    else:
        arguments = {"variation": VariationConfig(seed=1)}
    continued = build_bins(folder, built.compiler, split, tmp_path / "bins", bins_per_file=4, **arguments)  # type: ignore[arg-type]
    fresh = build_bins(folder, built.compiler, split, tmp_path / "fresh", bins_per_file=4, **arguments)  # type: ignore[arg-type]
    assert continued == fresh


def test_a_finished_folder_is_built_again_without_its_old_files(built: Built, tmp_path: Path) -> None:
    built.build(tmp_path)
    half = built.build(tmp_path, members=(0.0, 0.4))
    assert half.n_bins < built.plan.n_bins
    half.check_files(tmp_path)
    assert json.loads((tmp_path / PLAN_FILE).read_text())["plan_hash"] == half.plan_hash


def test_shards_without_rows_and_members_with_one_row(built: Built, tmp_path: Path) -> None:
    ids = built.tables.interactions["member_id"].to_pylist()
    opted_out = dict(zip(*(built.tables.members[name].to_pylist() for name in ("member_id", "opted_out")), strict=True))
    row = next(place for place, member in enumerate(ids) if not opted_out[member])
    rows = built.tables.interactions.slice(row, 1)
    tables = Tables(members=built.tables.members, entities=built.tables.entities, interactions=rows)
    write_tables(tables, tmp_path / "one")
    assert build_bins(tmp_path / "one", built.compiler, built.split, tmp_path / "bins").n_documents == 1
    own = built.tables.interactions.filter([id_ == ids[row] for id_ in ids])
    write_tables(
        Tables(members=built.tables.members, entities=built.tables.entities, interactions=own),
        tmp_path / "skewed",
        rows_per_shard=2,
    )
    assert TableShards.open(tmp_path / "skewed").count > 8
    plan = build_bins(tmp_path / "skewed", built.compiler, built.split, tmp_path / "bins")
    assert packed(tmp_path / "bins").total() == plan.n_documents


def test_a_training_part_without_rows_is_refused(built: Built, tmp_path: Path) -> None:
    early = Split(train_until=0, until=1)
    with pytest.raises(UserError, match="has no interaction on a trained surface before the cut"):
        build_bins(built.folder, built.compiler, early, tmp_path)
    assert not (tmp_path / PLAN_FILE).exists()


def test_the_corpus_is_the_same_from_one_shard_and_from_many_and_a_sample_of_many_turns(
    built: Built, tmp_path: Path
) -> None:
    write_tables(built.tables, tmp_path)
    suite = built.compiler.suite
    whole = corpus_tokenizer(tmp_path, suite, built.split, 400).to_json()
    assert whole == built.compiler.tokenizer.to_json()
    samples = [
        corpus_tokenizer(folder, suite, built.split, 400, most_turns=200).to_json()
        for folder in (tmp_path, built.folder)
    ]
    assert samples[0] == samples[1] != whole


def test_the_number_of_shards_is_that_of_the_tables(built: Built) -> None:
    read = read_tables(built.folder)
    assert read.interactions.num_rows == built.tables.interactions.num_rows
    assert shard_file(built.folder, "members", 0, TableShards.open(built.folder).count).is_file()

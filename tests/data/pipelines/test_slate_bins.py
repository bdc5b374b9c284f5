"""Bins with slates: the same examples as without, whatever happens while they are built. These tests do not use Ray."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brew_data.packed_bins.extension import extend_bins
from brew_data.packed_bins.packed_documents import PackedDocument, find_document, read_bin
from brew_data.packed_bins.plan import FORMAT_VERSION, SLATES_VERSION, BinsPlan
from brew_data.packed_bins.schema import SEGMENTS
from brew_data.pipelines import shard_packing
from brew_data.pipelines.corpus import corpus_tokenizer
from brew_data.pipelines.documents import build_bins
from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.schema import micros, write_tables
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate
from brew_data.split import Split, SplitConfig
from brew_data.table_shards import TableShards
from brew_train.config import ModelShape
from brew_train.inputs.bin_reader import BinReader

Documents = Counter[tuple[tuple[int, ...], tuple[int, ...]]]


class Built(NamedTuple):
    """Small tables in several shards; one task trains on whole histories, two on examples."""

    tables: Path
    compiler: PromptCompiler
    split: Split
    alone: Path  # bins without slates
    slates: Path
    plan: BinsPlan  # of `slates`

    def build(self, out: Path, **arguments: bool | int) -> BinsPlan:
        return build_bins(self.tables, self.compiler, self.split, out, bins_per_file=4, **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("slates")
    tables = generate(SyntheticConfig(members=40, jobs=30, posts=50, interactions_per_member=30))
    write_tables(tables, folder / "tables", rows_per_shard=300)
    assert TableShards.open(folder / "tables").count >= 2
    split = Split.of(micros(tables.interactions).to_numpy(), SplitConfig(last_days=30))
    suite = load_suite("economic_graph")
    jobs, likes, opens = suite.tasks
    suite = replace(
        suite, tasks=[jobs, replace(likes, question=["do they like it?"]), replace(opens, question=["is it opened?"])]
    )
    tokenizer = corpus_tokenizer(folder / "tables", suite, split, 400)
    compiler = PromptCompiler(suite, tokenizer, PromptFormat(context_length=640, head_tokens=128, question_tokens=64))
    built = Built(folder / "tables", compiler, split, folder / "alone", folder / "slates", BinsPlan.load)  # type: ignore[arg-type]
    built.build(built.alone)
    return built._replace(plan=built.build(built.slates, slates=True))


def packed(folder: Path) -> list[PackedDocument]:
    plan = BinsPlan.load(folder)
    return [document for bin_id in range(plan.n_bins) for document in read_bin(folder, plan, bin_id)]


def examples(folder: Path) -> Documents:
    """Ids and roles of the documents with one candidate that the documents of bins stand for."""
    found: Documents = Counter()
    for document in packed(folder):
        start = document.segments[0].tokens if document.segments else 0
        for length, seen in document.segments[1:] or ((len(document.ids), 0),):
            places = np.r_[0:seen, start : start + length]
            found[tuple(document.ids[places].tolist()), tuple(document.roles[places].tolist())] += 1
            start += length
        assert start == len(document.ids)
    return found


def test_bins_with_slates_have_the_examples_of_bins_without_in_fewer_tokens(built: Built) -> None:
    alone = BinsPlan.load(built.alone)
    assert examples(built.slates) == examples(built.alone)
    assert built.plan == BinsPlan.load(built.slates)
    assert (alone.format_version, built.plan.format_version) == (FORMAT_VERSION, SLATES_VERSION)
    assert built.plan.n_tokens < 0.6 * alone.n_tokens
    assert built.plan.n_documents < alone.n_documents
    assert built.plan.turns_dropped == alone.turns_dropped
    names = set(pq.read_schema(built.alone / alone.files[0].name).names)
    assert not names & set(SEGMENTS.names)
    slates = [number for number, document in enumerate(packed(built.slates)) if document.segments]
    found = find_document(built.slates, built.plan, slates[-1])
    assert found.segments == packed(built.slates)[slates[-1]].segments


def test_training_reads_the_segments_that_were_written(built: Built) -> None:
    shape = ModelShape(vocabulary_size=built.compiler.tokenizer.vocabulary_size, context_length=640)
    for folder in (built.slates, built.alone):
        reader, plan = BinReader(folder, shape), BinsPlan.load(folder)
        reader.verify()
        for bin_id in range(plan.n_bins):
            read = reader[bin_id]
            segments = [
                segment
                for document in read_bin(folder, plan, bin_id)
                for segment in document.segments or ((len(document.ids), 0),)
            ]
            if len(read.segment_lengths):
                assert list(zip(read.segment_lengths.tolist(), read.segment_prefixes.tolist(), strict=True)) == segments
            else:
                assert segments == [(length, 0) for length in read.doc_lengths.tolist()]


@pytest.mark.parametrize("stage", ["_pack_shard", "_write_shard"])
def test_a_killed_build_continues(built: Built, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = getattr(shard_packing, stage), []

    def failing(shard: int, **arguments: object) -> Iterator[pa.Table]:
        if calls:
            raise RuntimeError("killed")
        calls.append(shard)
        yield from original(shard, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shard_packing, stage, failing)
        with pytest.raises(RuntimeError, match="killed"):
            built.build(tmp_path, slates=True)
    assert built.build(tmp_path, slates=True) == built.plan


def test_a_build_without_slates_does_not_continue_one_with_them(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(shard: int, **arguments: object) -> Iterator[pa.Table]:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(shard_packing, "_write_shard", failing)
        with pytest.raises(RuntimeError, match="killed"):
            built.build(tmp_path, slates=True)
    assert built.build(tmp_path) == BinsPlan.load(built.alone)


@pytest.mark.parametrize("first", ["alone", "slates"])
def test_bins_with_and_without_slates_extend_each_other(built: Built, first: str, tmp_path: Path) -> None:
    folders = [built.alone, built.slates] if first == "alone" else [built.slates, built.alone]
    plan = extend_bins(*folders, tmp_path / "both")
    assert plan.format_version == SLATES_VERSION
    assert examples(tmp_path / "both") == examples(built.alone) + examples(built.slates)

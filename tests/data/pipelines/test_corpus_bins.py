"""Corpora: documents of tables and files in a folder of bins, as often as the mix says. No test starts Ray."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brew_data.corpora.config import CorpusConfig, CorpusSourceConfig
from brew_data.corpora.document_sources import TableRows
from brew_data.mixing.mix import Quota
from brew_data.mixing.mix_file import MIX_FILE, read_mix
from brew_data.packed_bins.plan import PLAN_FILE, BinsPlan
from brew_data.pipelines import corpus_documents, documents, shard_packing
from brew_data.pipelines.corpus_bins import SOURCES, build_corpus, compile_corpus
from brew_data.prompts.compiler import PromptCompiler
from brew_data.schema import TIMESTAMP, Tables, micros, write_tables
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate
from brew_data.split import EVERYONE, Split, SplitConfig
from brew_platform.errors import ConfigError, DataError, UserError

KINDS = ("interactions", "profiles", "networks", "entities", "conversations")
CHATS = 30


class Data(NamedTuple):
    rows: TableRows
    chats: Path
    compiler: PromptCompiler

    def source(self, kind: str, **settings: Any) -> CorpusSourceConfig:
        path = str(self.chats) if kind == "conversations" else None
        return CorpusSourceConfig(kind=kind, path=path, **settings)

    def build(self, out: Path, sources: dict[str, CorpusSourceConfig], **settings: Any) -> BinsPlan:
        return build_corpus(CorpusConfig(sources=sources, **settings), self.rows, self.compiler, out, bins_per_file=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, compiler: PromptCompiler) -> Data:
    folder = tmp_path_factory.mktemp("corpora")
    tables = generate(SyntheticConfig(members=40, jobs=30, posts=50, interactions_per_member=30, opted_out_share=0.1))
    members = tables.members["member_id"].to_pylist()
    links = [
        {"member_id": member, "other_id": other, "kind": kind, "timestamp": time}
        for member, other in pairwise(members)
        for kind, time in (("connection", 0), ("follow", 4 * 10**15))  # the follow is after the cut
    ]
    connections = pa.Table.from_pylist(
        links,
        schema=pa.schema(
            {"member_id": pa.string(), "other_id": pa.string(), "kind": pa.string(), "timestamp": pa.int64()}
        ),
    )
    connections = connections.set_column(3, "timestamp", connections["timestamp"].cast(TIMESTAMP))
    write_tables(
        Tables(
            members=tables.members, entities=tables.entities, interactions=tables.interactions, connections=connections
        ),
        folder / "tables",
        rows_per_shard=70,
    )
    split = Split.of(micros(tables.interactions).to_numpy(), SplitConfig(last_days=30))
    (folder / "chats").mkdir()
    for name in ("a", "b"):
        lines = [
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": f"{name}{i}"},
                        {"role": "assistant", "content": "x" * i + "y"},
                    ]
                }
            )
            for i in range(CHATS // 2)
        ]
        (folder / "chats" / f"{name}.jsonl").write_text("\n".join(lines))
    rows = TableRows(folder=folder / "tables", until=split.train_until, members=EVERYONE, variation=None)
    return Data(rows, folder / "chats", compiler)


def packed(folder: Path) -> Counter[tuple[int, ...]]:
    """The documents of all bins, as token ids."""
    found: Counter[tuple[int, ...]] = Counter()
    for file in BinsPlan.load(folder).files:
        for row in pq.read_table(folder / file.name).to_pylist():
            start = 0
            for length in row["doc_lengths"]:
                found[tuple(row["input_ids"][start : start + length])] += 1
                start += length
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_source_has_bins_of_its_own(kind: str, data: Data, tmp_path: Path) -> None:
    plan = data.build(tmp_path, {"x": data.source(kind)})
    plan.verify_files(tmp_path)
    mix = read_mix(tmp_path)
    [(name, found)] = mix["sources"].items()
    assert (name, found["kind"], found["repeats"], found["share"]) == ("x", kind, 1.0, 1.0)
    assert found["documents"] == found["documents_available"] == plan.n_documents == packed(tmp_path).total()
    assert found["tokens"] == mix["tokens"] == plan.n_tokens
    assert not (tmp_path / SOURCES).exists()


def test_the_chats_of_the_interactions_are_those_of_sft(data: Data, tmp_path: Path) -> None:
    data.build(tmp_path / "corpus", {"x": data.source("interactions")})
    split = Split(train_until=data.rows.until, until=data.rows.until)
    documents.build_bins(data.rows.folder, data.compiler, split, tmp_path / "bins")
    assert packed(tmp_path / "corpus") == packed(tmp_path / "bins")


def test_networks_have_the_connections_before_the_cut(data: Data, tmp_path: Path) -> None:
    data.build(tmp_path, {"x": data.source("networks")})
    texts = [data.compiler.tokenizer.decode(ids) for ids in packed(tmp_path).elements()]
    assert texts
    assert all(text.count("Connected with: ") == 1 and "Follows" not in text for text in texts)


def test_entities_are_those_that_were_shown_before_the_cut(data: Data, tmp_path: Path) -> None:
    data.build(tmp_path, {"x": data.source("entities")})
    mix = read_mix(tmp_path)["sources"]["x"]
    assert set(mix["strata"]) == {"job", "post"}
    early = Data(
        TableRows(folder=data.rows.folder, until=0, members=EVERYONE, variation=None), data.chats, data.compiler
    )
    with pytest.raises(UserError, match="the source x of the mix has no documents"):
        early.build(tmp_path / "early", {"x": data.source("entities")})


def test_sources_are_mixed_by_weight_within_the_budget(data: Data, tmp_path: Path) -> None:
    sources = {"chats": data.source("conversations", weight=1), "texts": data.source("entities", weight=3)}
    plan = data.build(tmp_path, sources, tokens=2_000)
    mix = read_mix(tmp_path)
    assert plan.n_tokens == mix["tokens"] <= 2_000
    longest = max(map(len, packed(tmp_path)))
    for name, expected in (("chats", 500), ("texts", 1_500)):  # texts have two strata
        assert expected - 3 * longest < mix["sources"][name]["tokens"] <= expected
    assert mix["budget"] == 2_000


def test_repeats_follow_from_the_budget(data: Data, tmp_path: Path) -> None:
    once = data.build(tmp_path / "once", {"x": data.source("conversations")})
    twice = data.build(tmp_path / "twice", {"x": data.source("conversations")}, tokens=2 * once.n_tokens)
    assert packed(tmp_path / "twice") == packed(tmp_path / "once") + packed(tmp_path / "once")
    assert read_mix(tmp_path / "twice")["sources"]["x"]["repeats"] == 2.0
    assert twice.n_documents == 2 * once.n_documents
    with pytest.raises(UserError, match="most_repeats is 4"):
        data.build(tmp_path / "often", {"x": data.source("conversations")}, tokens=5 * once.n_tokens)


def test_workers_and_the_order_of_sources_do_not_change_the_bins(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backwards(function, shards, **arguments):  # type: ignore[no-untyped-def]
        for shard in reversed(shards):
            for table in function(shard, **arguments):
                yield from table.to_pylist()

    sources = {
        "a": data.source("conversations"),
        "b": data.source("entities", toward="a"),
        "c": data.source("profiles"),
    }
    first = data.build(tmp_path / "first", sources, tokens=3_000)
    monkeypatch.setattr(shard_packing, "run_shards", backwards)
    monkeypatch.setattr(corpus_documents, "run_shards", backwards)
    again = data.build(tmp_path / "again", dict(reversed(sources.items())), tokens=3_000)
    assert again == first
    assert read_mix(tmp_path / "again") == read_mix(tmp_path / "first")


def test_bins_of_several_mixes_are_packed_from_sources_that_were_compiled_once(data: Data, tmp_path: Path) -> None:
    def config(chats: int, texts: int) -> CorpusConfig:
        sources = {"chats": data.source("conversations", weight=chats), "texts": data.source("entities", weight=texts)}
        return CorpusConfig(sources=sources, tokens=2_000)

    compiled = compile_corpus(config(1, 1), data.rows, data.compiler, tmp_path / "sources")
    for number, weights in enumerate([(1, 3), (3, 1)]):
        expected = build_corpus(config(*weights), data.rows, data.compiler, tmp_path / "built")
        assert compiled.pack_mix(config(*weights), tmp_path / str(number)) == expected
        assert read_mix(tmp_path / str(number)) == read_mix(tmp_path / "built")
    assert packed(tmp_path / "0") != packed(tmp_path / "1")
    found = compiled.candidates()["texts"]
    jobs = int((found.stratum_D == found.strata.index("job")).sum())
    plan = compiled.pack({"texts": {"job": Quota(repeats=2, last_rank=-math.inf)}}, tmp_path / "jobs")
    assert plan is not None
    assert plan.n_documents == 2 * jobs
    assert compiled.pack({"texts": {}}, tmp_path / "nothing") is None


def test_another_seed_chooses_other_documents(data: Data, tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        data.build(tmp_path / str(seed), {"x": data.source("entities")}, tokens=600, seed=seed)
        found.append(packed(tmp_path / str(seed)))
    assert found[0] != found[1]


def test_documents_that_resemble_another_source_are_chosen_first(data: Data, tmp_path: Path) -> None:
    found = []
    for toward in (None, "jobs"):
        sources = {"jobs": data.source("profiles", weight=1), "x": data.source("entities", toward=toward, weight=1)}
        data.build(tmp_path / str(toward), sources, tokens=1_000)
        found.append(packed(tmp_path / str(toward)))
    assert found[0] != found[1]


def test_a_killed_build_continues_with_the_parts_that_are_left(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {"a": data.source("conversations"), "b": data.source("profiles")}
    expected = data.build(tmp_path / "whole", sources)
    original, calls = corpus_documents._compile_part, []

    def failing(index: int, **arguments: Any) -> Iterator[pa.Table]:
        if len(calls) == 3:
            raise RuntimeError("killed")
        calls.append(index)
        yield from original(index, **arguments)

    monkeypatch.setattr(corpus_documents, "_compile_part", failing)
    with pytest.raises(RuntimeError, match="killed"):
        data.build(tmp_path / "x", sources)
    assert not (tmp_path / "x" / PLAN_FILE).exists()
    finished = list(calls)
    calls[:] = [-1, -1, -1, -1]  # no further failure
    assert data.build(tmp_path / "x", sources) == expected
    assert not set(calls) & set(finished)
    assert (tmp_path / "x" / MIX_FILE).read_text() == (tmp_path / "whole" / MIX_FILE).read_text()


@pytest.mark.parametrize(("max_share", "fails"), [(0.1, True), (0.5, False)])
def test_rows_that_are_no_conversations_are_counted(data: Data, max_share: float, fails: bool, tmp_path: Path) -> None:
    lines = ['{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}'] * 2
    lines += [
        "{",
        json.dumps({"messages": [{"role": "user", "content": "a" * 5_000}, {"role": "assistant", "content": "b"}]}),
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    config = CorpusConfig(sources={"x": CorpusSourceConfig(kind="conversations", path=str(tmp_path / "a.jsonl"))})
    arguments: dict[str, Any] = {"quarantine": tmp_path / "quarantine", "max_share": max_share}
    if fails:
        with pytest.raises(DataError, match="1 of 4 rows of the source x are not conversations"):
            build_corpus(config, data.rows, data.compiler, tmp_path / "cpt", **arguments)
        return
    build_corpus(config, data.rows, data.compiler, tmp_path / "cpt", **arguments)
    reasons = read_mix(tmp_path / "cpt")["quarantined"]["x"]
    assert reasons == {"the line is not valid JSON": 1, "the first turn exceeds the context": 1}
    rows = (tmp_path / "quarantine" / "cpt" / "x-00000" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(row)["line"] for row in rows] == [3, 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": {}}, "sources is empty"),
        ({"sources": {"x": {"kind": "profiles", "toward": "y"}}}, "toward is 'y', which is not another source"),
        ({"sources": {"x": {"kind": "profiles", "path": "a.jsonl"}}}, "path is set, but only read for conversations"),
        ({"sources": {"x": {"kind": "conversations"}}}, "path is missing; give the files of conversations"),
        ({"sources": {"x": {"kind": "chats"}}}, "kind is 'chats'"),
        ({"sources": {"x": {"kind": "profiles"}}, "most_repeats": 0.5}, "most_repeats"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CorpusConfig(
            **settings | {"sources": {name: CorpusSourceConfig(**item) for name, item in settings["sources"].items()}}
        )

"""The Ray Data pipelines: every document is in one bin, and every row after the cut is in one request per task."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from brew_data.packed_bins.plan import BinsPlan
from brew_data.pipelines.corpus import corpus_tokenizer
from brew_data.pipelines.documents import build_bins
from brew_data.pipelines.requests import build_requests
from brew_data.pipelines.shard_packing import WORK
from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.records import Records
from brew_data.schema import Tables, micros, write_tables
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate
from brew_data.split import Split, SplitConfig, is_in_part, member_hash
from brew_data.table_shards import TableShards

from ...serve.running_ray import RAY, running_ray

pytestmark = RAY

CAPACITY = 384
BINS_PER_FILE = 3


@dataclass(frozen=True)
class Dataset:
    """Small tables on disk, and what both pipelines take as arguments."""

    folder: Path
    tables: Tables
    split: Split
    compiler: PromptCompiler
    records: Records

    def rows(self, *, training: bool) -> list[dict]:
        """Rows of members that did not opt out, on one side of the cut, in order, with `time` in microseconds."""
        rows = self.tables.interactions.to_pylist()
        times = micros(self.tables.interactions).to_pylist()
        return [
            row | {"time": time}
            for row, time in zip(rows, times, strict=True)
            if row["member_id"] in self.records.profiles and (time <= self.split.train_until) == training
        ]


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    with running_ray():
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("tables")
    config = SyntheticConfig(members=40, jobs=30, posts=50, interactions_per_member=30, opted_out_share=0.1)
    tables = generate(config)
    write_tables(tables, folder, rows_per_shard=150)
    assert TableShards.open(folder).count == 4
    split = Split.of(micros(tables.interactions).to_numpy(), SplitConfig(last_days=30))
    suite = load_suite("economic_graph")
    tokenizer = corpus_tokenizer(folder, suite, split, 500)
    format = PromptFormat(context_length=CAPACITY, head_tokens=128, question_tokens=64)
    return Dataset(folder, tables, split, PromptCompiler(suite, tokenizer, format), Records(tables))


@pytest.fixture(scope="module")
def bins(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BinsPlan]:
    out = tmp_path_factory.mktemp("bins")
    return out, build(dataset, out)


def build(dataset: Dataset, out: Path) -> BinsPlan:
    return build_bins(dataset.folder, dataset.compiler, dataset.split, out, bins_per_file=BINS_PER_FILE)


def read_bins(folder: Path) -> list[dict]:
    return [row for path in sorted(folder.glob("bins-*.parquet")) for row in pq.read_table(path).to_pylist()]


def packed_documents(bins: list[dict]) -> Counter[tuple]:
    """The documents of all bins, as (token ids, roles)."""
    documents: Counter[tuple] = Counter()
    for bin_ in bins:
        start = 0
        for length in bin_["doc_lengths"]:
            end = start + length
            documents[tuple(bin_["input_ids"][start:end]), tuple(bin_["roles"][start:end])] += 1
            start = end
        assert start == len(bin_["input_ids"]) == len(bin_["roles"])
    return documents


def compiled_documents(dataset: Dataset, part: tuple[float, float] = (0.0, 1.0)) -> Counter[tuple]:
    """The documents of all members of a part, compiled without Ray."""
    trained_on = dataset.tables.interactions.filter(
        [time <= dataset.split.train_until for time in micros(dataset.tables.interactions).to_pylist()]
    )
    documents: Counter[tuple] = Counter()
    for member, profile in dataset.records.profiles.items():
        own = trained_on.filter([id_ == member for id_ in trained_on["member_id"].to_pylist()])
        if own.num_rows and is_in_part(member, part):
            history = dataset.records.history(own)
            for document in dataset.compiler.documents(profile, history, turn_of=member_hash(member)):
                documents[tuple(document.ids), tuple(document.roles)] += 1
    return documents


def test_every_document_is_in_exactly_one_bin(dataset: Dataset, bins: tuple[Path, BinsPlan]) -> None:
    expected = compiled_documents(dataset)
    assert len(expected) > BINS_PER_FILE
    assert packed_documents(read_bins(bins[0])) == expected


def test_workers_write_the_same_files_as_one_process(
    dataset: Dataset, bins: tuple[Path, BinsPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    assert build(dataset, tmp_path) == bins[1]


def test_a_build_whose_driver_was_killed_continues(
    dataset: Dataset, bins: tuple[Path, BinsPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(done: int, total: int) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        build_bins(
            dataset.folder, dataset.compiler, dataset.split, tmp_path, bins_per_file=BINS_PER_FILE, on_progress=killed
        )
    finished = sorted((tmp_path / WORK).glob("packed-*.json"))
    assert finished
    times = [path.stat().st_mtime_ns for path in finished]
    seen: list[list[int]] = []

    def look(done: int, total: int) -> None:
        seen.append([path.stat().st_mtime_ns for path in finished])

    plan = build_bins(
        dataset.folder, dataset.compiler, dataset.split, tmp_path, bins_per_file=BINS_PER_FILE, on_progress=look
    )
    assert plan == bins[1]
    assert seen
    assert all(found == times for found in seen)


def test_no_bin_exceeds_the_capacity_and_every_bin_id_occurs_once(bins: tuple[Path, BinsPlan]) -> None:
    written = read_bins(bins[0])
    assert all(0 < len(bin_["input_ids"]) <= CAPACITY for bin_ in written)
    assert [bin_["bin_id"] for bin_ in written] == list(range(len(written)))
    assert all(pq.read_metadata(path).num_rows <= BINS_PER_FILE for path in bins[0].glob("bins-*.parquet"))


def test_the_counts_of_the_plan_are_those_of_the_files(dataset: Dataset, bins: tuple[Path, BinsPlan]) -> None:
    folder, plan = bins
    written = read_bins(folder)
    tokens = sum(len(bin_["input_ids"]) for bin_ in written)
    assert plan.n_bins == len(written)
    assert plan.n_documents == sum(len(bin_["doc_lengths"]) for bin_ in written)
    assert plan.n_tokens == tokens
    assert plan.fill == pytest.approx(tokens / (len(written) * CAPACITY))
    assert plan.context_length == CAPACITY
    assert plan.vocabulary_size == dataset.compiler.tokenizer.vocabulary_size
    assert json.loads((folder / "plan.json").read_text()).items() >= asdict(plan).items()


def test_two_parts_of_the_members_hold_each_document_once(dataset: Dataset, tmp_path: Path) -> None:
    for name, part in [("a", (0.0, 0.4)), ("b", (0.4, 1.0))]:
        build_bins(dataset.folder, dataset.compiler, dataset.split, tmp_path / name, members=part)
        assert packed_documents(read_bins(tmp_path / name)) == compiled_documents(dataset, part)
    both = packed_documents(read_bins(tmp_path / "a")) + packed_documents(read_bins(tmp_path / "b"))
    assert both == compiled_documents(dataset)


@pytest.fixture(scope="module")
def requests(dataset: Dataset) -> list[dict]:
    return list(build_requests(dataset.folder, dataset.compiler, dataset.split).iter_rows())


def test_every_row_after_the_cut_is_in_one_request_per_task_of_its_surface(
    dataset: Dataset, requests: list[dict]
) -> None:
    scored = Counter((request["task"], int(id_)) for request in requests for id_ in request["interaction_ids"])
    tasks = dataset.compiler.suite.tasks
    later = dataset.rows(training=False)
    assert len(later) > 50
    assert scored == Counter(
        (task.name, row["interaction_id"]) for row in later for task in tasks if task.surface == row["surface"]
    )


def test_a_request_sees_strictly_earlier_rows_of_its_member_only(dataset: Dataset, requests: list[dict]) -> None:
    rows = {row["interaction_id"]: row for training in (True, False) for row in dataset.rows(training=training)}
    table = dataset.tables.interactions
    for request in requests:
        member, task = request["member_id"], dataset.compiler.suite.task(request["task"])
        profile = dataset.records.profiles[member]
        scored = [rows[int(id_)] for id_ in request["interaction_ids"]]
        assert {row["member_id"] for row in scored} == {member}
        [moment] = {row["time"] for row in scored}
        earlier = {id_ for id_, row in rows.items() if row["member_id"] == member and row["time"] < moment}
        mask = [id_ in earlier for id_ in table["interaction_id"].to_pylist()]
        history = dataset.records.history(table.filter(mask))
        prefix = dataset.compiler.prefix(task, profile, history, before=moment)
        assert tuple(request["prefix_ids"]) == tuple(prefix.ids)
        questions = [
            tuple(dataset.compiler.question(task, profile, dataset.records.entities[row["entity_id"]])[0])
            for row in scored
        ]
        assert [tuple(ids) for ids in request["question_ids"]] == questions

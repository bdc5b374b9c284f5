"""The Ray Data pipelines: tables to packed bins for training, and tables to scoring requests for a benchmark.

Owns: what runs in parallel. The work on one member is `PromptCompiler`'s, the plan is `pack`'s, the files are `bins`'s.
"""

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data.grouped_data import GroupedData

from brew_data.packed_bins.packing import pack
from brew_data.packed_bins.schema import BINS_PER_FILE, BinsPlan, finish_plan, write_file, write_plan
from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tokenizer import Tokenizer, train_tokenizer
from brew_data.records import Records
from brew_data.schema import micros, read_tables
from brew_data.split import EVERYONE, Split, is_in_part, member_hash
from brew_platform.errors import UserError

__all__ = [
    "BinsPlan",
    "build_bins",
    "build_requests",
    "compile_documents",
    "compile_requests",
    "compiler_spec",
    "corpus_tokenizer",
]

SHUFFLE_PARTITIONS = 2  # of a hash shuffle: each starts an actor, seconds of work on a small machine


def corpus_tokenizer(tables_folder: Path, suite: TaskSuite, split: Split, vocabulary_size: int) -> Tokenizer:
    """A tokenizer trained on what the training part says: its turns as often as they occur, and every profile.

    Answers are counted with their turns, so that the label words become single tokens.
    """
    tables = read_tables(tables_folder)
    records = Records(tables)
    trained_on = tables.interactions.filter(pc.less_equal(micros(tables.interactions), split.train_until))

    def texts() -> Iterator[str]:
        for task in suite.tasks:
            yield task.instruction
        yield from (suite.profile_text(profile) for profile in records.profiles.values())
        for member, past in zip(trained_on["member_id"].to_pylist(), records.history(trained_on), strict=True):
            if member in records.profiles:
                task = suite.by_surface[past.surface]
                entity = past.entity
                yield suite.question_text(task, records.profiles[member], entity.entity_type, entity.fields)
                yield task.labels[past.action]

    return train_tokenizer(texts(), vocabulary_size=vocabulary_size)


def build_bins(
    tables_folder: Path,
    compiler: PromptCompiler,
    split: Split,
    out: Path,
    *,
    members: tuple[float, float] = EVERYONE,
    bins_per_file: int = BINS_PER_FILE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BinsPlan:
    """Compiles every member's training rows into documents, packs them, and writes the bins.

    Args:
        tables_folder: members, entities and interactions as Parquet.
        out: receives `bins-*.parquet` (bin_id int64, input_ids list<int32>, doc_lengths list<int32>, roles list<uint8>;
            one row per bin, unpadded) and, last, `plan.json`.
        members: which part of them (`is_in_part`).
        on_progress: called with (bins written, bins in all).

    Raises:
        UserError: the training part is empty, or a row names an unknown surface or action.
    """
    out.mkdir(parents=True, exist_ok=True)
    capacity = compiler.format.context_length
    rows = _by_member(tables_folder, until=split.train_until, part=members)
    documents = rows.map_groups(
        compile_documents,
        fn_kwargs={"tables_folder": tables_folder, "spec": compiler_spec(compiler)},
        batch_format="pyarrow",
    ).materialize()

    # The plan needs lengths only: a few bytes per document reach the driver, never their tokens.
    lengths = _sorted_column(documents, key="document", value="length")
    if not lengths:
        raise UserError(
            f"{tables_folder} holds no interaction of a trained surface before the cut; nothing to train on."
        )
    names = sorted(lengths)
    plan = pack([lengths[name] for name in names], capacity)
    place = {names[i]: (bin_id, slot) for bin_id, bin_ in enumerate(plan) for slot, i in enumerate(bin_)}

    written = documents.map_batches(
        _place_documents, fn_kwargs={"place": ray.put(place), "bins_per_file": bins_per_file}, batch_format="pyarrow"
    )
    files = written.groupby("file", num_partitions=SHUFFLE_PARTITIONS).map_groups(
        write_file, fn_kwargs={"out": out}, batch_format="pyarrow"
    )
    result = finish_plan(
        files.iter_rows(),
        n_bins=len(plan),
        n_documents=len(names),
        context_length=capacity,
        vocabulary_size=compiler.tokenizer.vocabulary_size,
        on_progress=on_progress,
    )
    write_plan(result, out)
    return result


def build_requests(tables_folder: Path, compiler: PromptCompiler, split: Split) -> ray.data.Dataset:
    """The benchmark's scoring requests: every row after the cut, each seen with strictly earlier history only.

    Rows of one member and moment on one task share a request, hence a prefix; requests of a member follow each other in
    time, so that each prefix extends the one before.

    Returns:
        Rows {task: str, member_id: str, prefix_ids: list<int32>, question_ids: list<list<int32>>,
        interaction_ids: list<int64>}.
    """
    return _by_member(tables_folder, until=split.until).map_groups(
        compile_requests,
        fn_kwargs={"tables_folder": tables_folder, "spec": compiler_spec(compiler), "after": split.train_until},
        batch_format="pyarrow",
    )


# --- The steps that run in Ray's workers ---

CompilerSpec = tuple[
    str, str, PromptFormat
]  # suite as JSON, tokenizer as JSON, format: small, and hashable for a cache


def compiler_spec(compiler: PromptCompiler) -> CompilerSpec:
    return json.dumps(compiler.suite.to_dict()), compiler.tokenizer.to_json(), compiler.format


@lru_cache(maxsize=1)
def _compiler(spec: CompilerSpec) -> PromptCompiler:
    suite, tokenizer, format = spec
    return PromptCompiler(TaskSuite.from_dict(json.loads(suite)), Tokenizer.from_json(tokenizer), format)


@lru_cache(maxsize=1)
def _records(tables_folder: Path) -> Records:
    return Records.read(tables_folder)


def _by_member(tables_folder: Path, *, until: int, part: tuple[float, float] = EVERYONE) -> GroupedData:
    rows = ray.data.read_parquet(str(tables_folder / "interactions.parquet"))
    rows = rows.map_batches(lambda table: table.filter(pc.less_equal(micros(table), until)), batch_format="pyarrow")
    if part != EVERYONE:
        rows = rows.map_batches(_of_members, fn_kwargs={"part": part}, batch_format="pyarrow")
    return rows.groupby("member_id", num_partitions=SHUFFLE_PARTITIONS)


def _of_members(rows: pa.Table, *, part: tuple[float, float]) -> pa.Table:
    """The rows of a part of the members, which their ids alone decide."""
    members = rows["member_id"].unique().to_pylist()
    chosen = [member for member in members if is_in_part(member, part)]
    return rows.filter(pc.is_in(rows["member_id"], pa.array(chosen, rows["member_id"].type)))


def compile_documents(rows: pa.Table, *, tables_folder: Path, spec: CompilerSpec) -> pa.Table:
    records, compiler = _records(tables_folder), _compiler(spec)
    member = rows["member_id"][0].as_py()
    documents = []
    if member in records.profiles:
        documents = compiler.documents(
            records.profiles[member],
            records.history(rows),
            turn_of=member_hash(member),
        )
    return pa.table(
        {
            "document": pa.array([f"{member}/{i:06d}" for i in range(len(documents))], pa.string()),
            "length": pa.array([len(document.ids) for document in documents], pa.int64()),
            "ids": pa.array([document.ids for document in documents], pa.list_(pa.int32())),
            "roles": pa.array([document.roles for document in documents], pa.list_(pa.uint8())),
        }
    )


def _sorted_column(dataset: ray.data.Dataset, *, key: str, value: str) -> dict[str, int]:
    table = pa.concat_tables(ray.get(dataset.select_columns([key, value]).to_arrow_refs()))
    return dict(zip(table[key].to_pylist(), table[value].to_pylist(), strict=True))


def _place_documents(documents: pa.Table, *, place: ray.ObjectRef, bins_per_file: int) -> pa.Table:
    places = ray.get(place)
    placed = [places[name] for name in documents["document"].to_pylist()]
    return (
        documents.append_column("bin_id", pa.array([bin_id for bin_id, _ in placed], pa.int64()))
        .append_column("slot", pa.array([slot for _, slot in placed], pa.int64()))
        .append_column("file", pa.array([bin_id // bins_per_file for bin_id, _ in placed], pa.int64()))
    )


def compile_requests(rows: pa.Table, *, tables_folder: Path, spec: CompilerSpec, after: int) -> pa.Table:
    records, compiler = _records(tables_folder), _compiler(spec)
    member = rows["member_id"][0].as_py()
    requests = []
    if (profile := records.profiles.get(member)) is not None:
        history = records.history(rows)
        ids = rows.sort_by([("timestamp", "ascending"), ("interaction_id", "ascending")])["interaction_id"].to_pylist()
        scored = [(past, id_) for past, id_ in zip(history, ids, strict=True) if past.timestamp > after]
        for (timestamp, surface), group in groupby(
            sorted(scored, key=lambda pair: (pair[0].timestamp, pair[0].surface)),
            key=lambda pair: (pair[0].timestamp, pair[0].surface),
        ):
            pairs = list(group)
            task = compiler.suite.by_surface[surface]
            prefix = compiler.prefix(task, profile, history, before=timestamp)
            requests.append(
                {
                    "task": task.name,
                    "member_id": member,
                    "prefix_ids": prefix.ids,
                    "question_ids": [compiler.question(task, profile, past.entity)[0] for past, _ in pairs],
                    "interaction_ids": [id_ for _, id_ in pairs],
                }
            )
    schema = pa.schema(
        {
            "task": pa.string(),
            "member_id": pa.string(),
            "prefix_ids": pa.list_(pa.int32()),
            "question_ids": pa.list_(pa.list_(pa.int32())),
            "interaction_ids": pa.list_(pa.int64()),
        }
    )
    return pa.Table.from_pylist(requests, schema=schema)

"""The Ray Data pipeline from tables to the packed bins that training reads."""

from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from brew_data.packed_bins.packing import pack
from brew_data.packed_bins.plan import BinsPlan
from brew_data.packed_bins.schema import BINS_PER_FILE, finish_plan, start_folder, write_file
from brew_data.pipelines.member_groups import (
    SHUFFLE_PARTITIONS,
    CompilerSpec,
    compiler_spec,
    load_compiler,
    load_records,
    map_members,
)
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.suite import Surface, TaskSpec, TaskSuite
from brew_data.prompts.tokenizer import Tokenizer, train_tokenizer
from brew_data.records import Records
from brew_data.schema import micros, read_tables
from brew_data.split import EVERYONE, Split, member_hash
from brew_platform.errors import UserError

__all__ = ["build_bins", "compile_documents", "corpus_tokenizer"]


def corpus_tokenizer(tables_folder: Path, suite: TaskSuite, split: Split, vocabulary_size: int) -> Tokenizer:
    """Train a tokenizer on the text of the training part.

    The corpus has each turn as often as it occurs, each profile once, and the instructions. It includes the answers, so
    label words become single tokens.

    Args:
        tables_folder: The folder with members, entities and interactions as Parquet.
        suite: Renders the text.
        split: Only rows at or before its cut are read.
        vocabulary_size: The maximum number of ids.

    Returns:
        The tokenizer.

    Raises:
        UserError: A row has an unknown surface or action, or `vocabulary_size` is too small.
    """
    tables = read_tables(tables_folder)
    records = Records(tables)
    training_rows = tables.interactions.filter(pc.less_equal(micros(tables.interactions), split.train_until))

    return train_tokenizer(_corpus(records, training_rows, suite), vocabulary_size=vocabulary_size)


def _corpus(records: Records, rows: pa.Table, suite: TaskSuite) -> Iterator[str]:
    """Yield the texts that a tokenizer is trained on; entities and questions are rendered once."""
    for task in suite.tasks:
        yield suite.instruction(task)
    yield from (suite.profile_text(profile) for profile in records.profiles.values())

    @lru_cache(maxsize=100_000)  # popular entities occur again and again
    def entity_text(entity_id: str) -> tuple[str, str]:
        entity = records.entities[entity_id]
        return entity.entity_type, suite.entity_text(entity.entity_type, entity.fields)

    @cache
    def questions(surface_name: str) -> list[TaskSpec | Surface]:
        tasks = [task for task in suite.tasks_of(surface_name) if not task.follows_surface]
        return [suite.surface(surface_name), *tasks]

    @lru_cache(maxsize=1_000)  # rows of a member often follow each other
    def frames(member: str, surface_name: str, has_entity: bool) -> list[tuple[str, str]]:
        profile = records.profiles[member]
        return [suite.question_frame(source, profile, has_entity=has_entity) for source in questions(surface_name)]

    @cache
    def answers(surface_name: str, action: str) -> list[str]:
        surface, *tasks = questions(surface_name)
        assert isinstance(surface, Surface)
        return [
            surface.label(action),
            *(suite.outcome(task, action).label for task in tasks if isinstance(task, TaskSpec)),
        ]

    @cache
    def check(surface_name: str, entity_type: str) -> None:
        suite.check_entity_type(suite.surface(surface_name), entity_type)

    columns = (rows[name].to_pylist() for name in ("member_id", "entity_id", "surface", "action"))
    for member, entity_id, surface_name, action in zip(*columns, strict=True):
        if member in records.profiles:
            entity_type, text = entity_text(entity_id)
            check(surface_name, entity_type)
            for (before, after), answer in zip(
                frames(member, surface_name, bool(text)), answers(surface_name, action), strict=True
            ):
                yield f"{before}{text}{after}"
                yield answer


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
    """Compile every member's training rows into documents, pack them, and write the bins.

    Args:
        tables_folder: The folder with members, entities and interactions as Parquet.
        compiler: Compiles the documents; its context length is the capacity of a bin, in tokens.
        split: Only rows at or before its cut are read.
        out: The folder for `bins-*.parquet` (one row per bin, unpadded) and `plan.json`, which is written last.
        members: The part of the members whose rows are read (`is_in_part`).
        bins_per_file: The number of bins per Parquet file.
        on_progress: Called with (bins written, total bins).

    Returns:
        The contents of `plan.json`.

    Raises:
        UserError: The training part is empty, or a row has an unknown surface or action.
    """
    start_folder(out)
    capacity = compiler.format.context_length
    documents = map_members(
        tables_folder, compile_documents, until=split.train_until, members=members, spec=compiler_spec(compiler)
    ).materialize()

    # The plan needs lengths only, so the driver receives a few bytes per document and no tokens.
    lengths = _to_dict(documents, key="document", value="length") if documents.count() else {}
    if not lengths:
        raise UserError(
            f"{tables_folder} has no interaction on a trained surface before the cut, so there is nothing to train on. "
            f"Move the cut, or set in_training for a task."
        )
    names = sorted(lengths)
    plan = pack([lengths[name] for name in names], capacity)
    places = {names[i]: (bin_id, slot) for bin_id, bin_ in enumerate(plan) for slot, i in enumerate(bin_)}

    placed = documents.map_batches(
        _place_documents,
        fn_kwargs={"places_ref": ray.put(places), "bins_per_file": bins_per_file},
        batch_format="pyarrow",
    )
    files = placed.groupby("file", num_partitions=SHUFFLE_PARTITIONS).map_groups(
        write_file, fn_kwargs={"out": out}, batch_format="pyarrow"
    )
    result = finish_plan(
        files.iter_rows(),
        n_bins=len(plan),
        n_documents=len(names),
        context_length=capacity,
        vocabulary_size=compiler.tokenizer.vocabulary_size,
        prompt_digest=PromptBundle.of(compiler).digest,
        on_progress=on_progress,
    )
    result.write(out)
    return result


def compile_documents(rows: pa.Table, *, tables_folder: Path, spec: CompilerSpec) -> pa.Table:
    """Compile one member's training rows into documents; runs in a Ray worker.

    Args:
        rows: Training interactions of one member.
        tables_folder: Folder with the members and entities tables.
        spec: From `compiler_spec`.

    Returns:
        document string (unique, sorts by member and time), length int64, ids list<int32>, roles list<uint8>, and what
        was cut: fields_cut, tokens_cut, turns_dropped int64; no rows for a member who opted out.
    """
    records, compiler = load_records(tables_folder), load_compiler(spec)
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
            "fields_cut": pa.array([document.cut.fields for document in documents], pa.int64()),
            "tokens_cut": pa.array([document.cut.tokens for document in documents], pa.int64()),
            "turns_dropped": pa.array([document.turns_dropped for document in documents], pa.int64()),
        }
    )


def _to_dict(dataset: ray.data.Dataset, *, key: str, value: str) -> dict[str, int]:
    table = pa.concat_tables(ray.get(dataset.select_columns([key, value]).to_arrow_refs()))
    return dict(zip(table[key].to_pylist(), table[value].to_pylist(), strict=True))


def _place_documents(documents: pa.Table, *, places_ref: ray.ObjectRef, bins_per_file: int) -> pa.Table:
    """Append the columns bin_id, slot and file."""
    places = ray.get(places_ref)
    placed = [places[name] for name in documents["document"].to_pylist()]
    return (
        documents.append_column("bin_id", pa.array([bin_id for bin_id, _ in placed], pa.int64()))
        .append_column("slot", pa.array([slot for _, slot in placed], pa.int64()))
        .append_column("file", pa.array([bin_id // bins_per_file for bin_id, _ in placed], pa.int64()))
    )

"""The Ray Data pipeline from tables to the packed bins that training reads."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from brew_data.packed_bins.packing import pack
from brew_data.packed_bins.schema import BINS_PER_FILE, BinsPlan, finish_plan, write_file, write_plan
from brew_data.pipelines.member_groups import (
    SHUFFLE_PARTITIONS,
    CompilerSpec,
    compiler_spec,
    group_by_member,
    load_compiler,
    load_records,
)
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.suite import TaskSuite
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

    def texts() -> Iterator[str]:
        for task in suite.tasks:
            yield suite.instruction(task)
        yield from (suite.profile_text(profile) for profile in records.profiles.values())
        for member, past in zip(training_rows["member_id"].to_pylist(), records.history(training_rows), strict=True):
            if member in records.profiles:
                profile, entity = records.profiles[member], past.entity
                surface = suite.surface(past.surface)
                yield suite.question_text(surface, profile, entity.entity_type, entity.fields)
                yield surface.label(past.action)
                for task in suite.tasks_of(past.surface):
                    if not task.follows_surface:
                        yield suite.question_text(task, profile, entity.entity_type, entity.fields)
                        yield suite.outcome(task, past.action).label

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
    out.mkdir(parents=True, exist_ok=True)
    capacity = compiler.format.context_length
    rows = group_by_member(tables_folder, until=split.train_until, members=members)
    documents = rows.map_groups(
        compile_documents,
        fn_kwargs={"tables_folder": tables_folder, "spec": compiler_spec(compiler)},
        batch_format="pyarrow",
    ).materialize()

    # The plan needs lengths only, so the driver receives a few bytes per document and no tokens.
    lengths = _to_dict(documents, key="document", value="length")
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
    write_plan(result, out)
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

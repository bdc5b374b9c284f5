"""The start of every Ray Data pipeline: interactions grouped by member, and what a worker needs to compile prompts."""

import json
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data.grouped_data import GroupedData

from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tokenizer import Tokenizer
from brew_data.records import Records
from brew_data.schema import micros
from brew_data.split import EVERYONE, is_in_part

__all__ = ["SHUFFLE_PARTITIONS", "CompilerSpec", "compiler_spec", "group_by_member", "load_compiler", "load_records"]

SHUFFLE_PARTITIONS = 2  # of a hash shuffle; each partition starts an actor, which takes seconds on a small machine

CompilerSpec = tuple[str, str, PromptFormat]  # suite as JSON, tokenizer as JSON, prompt format; hashable


def compiler_spec(compiler: PromptCompiler) -> CompilerSpec:
    """Serialize a compiler for Ray's workers."""
    return json.dumps(compiler.suite.to_dict()), compiler.tokenizer.to_json(), compiler.format


@lru_cache(maxsize=1)
def load_compiler(spec: CompilerSpec) -> PromptCompiler:
    """Build the compiler that `compiler_spec` serialized; cached, so that a worker builds it once."""
    suite, tokenizer, prompt_format = spec
    return PromptCompiler(TaskSuite.from_dict(json.loads(suite)), Tokenizer.from_json(tokenizer), prompt_format)


@lru_cache(maxsize=1)
def load_records(tables_folder: Path) -> Records:
    """Read profiles and entities; cached, so that a worker reads them once."""
    return Records.read(tables_folder)


def group_by_member(tables_folder: Path, *, until: int, members: tuple[float, float] = EVERYONE) -> GroupedData:
    """Read the interactions and group them by member.

    Args:
        tables_folder: Folder with `interactions.parquet`.
        until: Last timestamp that is kept, in microseconds since 1970.
        members: Part of the members that is kept (`is_in_part`).
    """
    rows = ray.data.read_parquet(str(tables_folder / "interactions.parquet"))
    rows = rows.map_batches(lambda table: table.filter(pc.less_equal(micros(table), until)), batch_format="pyarrow")
    if members != EVERYONE:
        rows = rows.map_batches(_keep_members, fn_kwargs={"part": members}, batch_format="pyarrow")
    return rows.groupby("member_id", num_partitions=SHUFFLE_PARTITIONS)


def _keep_members(rows: pa.Table, *, part: tuple[float, float]) -> pa.Table:
    ids = rows["member_id"].unique().to_pylist()
    kept = [member_id for member_id in ids if is_in_part(member_id, part)]
    return rows.filter(pc.is_in(rows["member_id"], pa.array(kept, rows["member_id"].type)))

"""The common first steps of the Ray Data pipelines: group interactions by member, and send the compiler to workers."""

import json
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data.grouped_data import GroupedData

from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.control_tokens import ControlTokens
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tokenizer import Tokenizer
from brew_data.records import Records
from brew_data.schema import micros
from brew_data.split import EVERYONE, is_in_part

__all__ = ["SHUFFLE_PARTITIONS", "CompilerSpec", "compiler_spec", "group_by_member", "load_compiler", "load_records"]

SHUFFLE_PARTITIONS = 2  # each partition of a hash shuffle starts an actor, which takes seconds on a small machine

# Suite and tokenizer as JSON, control tokens, prompt format; hashable.
CompilerSpec = tuple[str, str, ControlTokens, PromptFormat]


def compiler_spec(compiler: PromptCompiler) -> CompilerSpec:
    """Serialize a compiler for Ray's workers."""
    tokenizer = compiler.tokenizer
    return json.dumps(compiler.suite.to_dict()), tokenizer.to_json(), tokenizer.control_tokens, compiler.format


@lru_cache(maxsize=1)
def load_compiler(spec: CompilerSpec) -> PromptCompiler:
    """Build the compiler that `compiler_spec` serialized. The result is cached, so a worker builds it once."""
    suite, tokenizer, control_tokens, prompt_format = spec
    return PromptCompiler(
        TaskSuite.from_dict(json.loads(suite)), Tokenizer.from_json(tokenizer, control_tokens), prompt_format
    )


@lru_cache(maxsize=1)
def load_records(tables_folder: Path) -> Records:
    """Read profiles and entities. The result is cached, so a worker reads them once."""
    return Records.read(tables_folder)


def group_by_member(tables_folder: Path, *, until: int, members: tuple[float, float] = EVERYONE) -> GroupedData:
    """Read the interactions and group them by member.

    Args:
        tables_folder: The folder with `interactions.parquet`.
        until: The last timestamp that is kept, in microseconds since 1970, UTC.
        members: The part of the members that is kept (`is_in_part`).
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

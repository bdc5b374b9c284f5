"""The common first steps of the Ray Data pipelines: group interactions by member, and send the compiler to workers."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.control_tokens import ControlTokens
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tokenizer import Tokenizer
from brew_data.records import Records
from brew_data.schema import micros
from brew_data.split import EVERYONE, is_in_part

__all__ = ["SHUFFLE_PARTITIONS", "CompilerSpec", "compiler_spec", "load_compiler", "load_records", "map_members"]

MEMBERS_PER_BATCH = 256  # whose results are yielded together
SHUFFLE_PARTITIONS = 2  # each partition of a hash shuffle starts an actor, which takes seconds on a small machine


@dataclass(frozen=True, kw_only=True, eq=False)
class CompilerSpec:
    """A serialized compiler. Specs are equal if their digests are: comparing a base model's tokenizer takes long.

    Args:
        digest: The digest of the `PromptBundle`.
        suite: The suite as JSON.
        tokenizer: The content of `tokenizer.json`.
        control_tokens: The tokens that have a role in a chat.
        format: The token budget.
        history: Policies that replace those of the suite, by task.
    """

    digest: str
    suite: str
    tokenizer: str
    control_tokens: ControlTokens
    format: PromptFormat
    history: Mapping[str, HistoryPolicy]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CompilerSpec) and (self.digest, self.history) == (other.digest, other.history)

    def __hash__(self) -> int:
        return hash(self.digest)


def compiler_spec(compiler: PromptCompiler) -> CompilerSpec:
    """Serialize a compiler for Ray's workers."""
    tokenizer = compiler.tokenizer
    return CompilerSpec(
        digest=PromptBundle.of(compiler).digest,
        suite=json.dumps(compiler.suite.to_dict()),
        tokenizer=tokenizer.to_json(),
        control_tokens=tokenizer.control_tokens,
        format=compiler.format,
        history=compiler.history,
    )


@lru_cache(maxsize=1)
def load_compiler(spec: CompilerSpec) -> PromptCompiler:
    """Build the compiler that `compiler_spec` serialized. The result is cached, so a worker builds it once."""
    suite = TaskSuite.from_dict(json.loads(spec.suite))
    tokenizer = Tokenizer.from_json(spec.tokenizer, spec.control_tokens)
    return PromptCompiler(suite, tokenizer, spec.format, spec.history)


@lru_cache(maxsize=1)
def load_records(tables_folder: Path) -> Records:
    """Read profiles and entities. The result is cached, so a worker reads them once."""
    return Records.read(tables_folder)


def map_members(
    tables_folder: Path,
    compile: Callable[..., pa.Table],
    *,
    until: int,
    members: tuple[float, float] = EVERYONE,
    **arguments: Any,
) -> ray.data.Dataset:
    """Read the interactions, group them by member, and apply a function to the rows of each member.

    Ray's own `map_groups` takes milliseconds per group; this function applies `compile` to the groups of a block.

    Args:
        tables_folder: The folder of `interactions.parquet`.
        compile: Called with the rows of one member, `tables_folder` and `arguments`; returns a table.
        until: Later rows are left out, in microseconds since 1970.
        members: The part of the members that is read (`is_in_part`).
        arguments: Of `compile`.

    Returns:
        The rows of the tables that `compile` returned.
    """
    rows = ray.data.read_parquet(str(tables_folder / "interactions.parquet"))
    rows = rows.map_batches(lambda table: table.filter(pc.less_equal(micros(table), until)), batch_format="pyarrow")
    if members != EVERYONE:
        rows = rows.map_batches(_keep_members, fn_kwargs={"part": members}, batch_format="pyarrow")
    return rows.repartition(SHUFFLE_PARTITIONS, keys=["member_id"], sort=True).map_batches(
        _map_block,
        fn_kwargs={"compile": compile, "arguments": {"tables_folder": tables_folder, **arguments}},
        batch_format="pyarrow",
        batch_size=None,  # a block has all rows of its members
    )


def _map_block(rows: pa.Table, *, compile: Callable[..., pa.Table], arguments: dict[str, Any]) -> Iterator[pa.Table]:
    """Apply `compile` to each member of a block that is sorted by member."""
    if not rows.num_rows:
        return
    runs = pc.run_end_encode(rows["member_id"].combine_chunks()).run_ends.to_pylist()
    tables: list[pa.Table] = []
    for start, end in zip([0, *runs[:-1]], runs, strict=True):
        tables.append(compile(rows.slice(start, end - start), **arguments))
        if len(tables) == MEMBERS_PER_BATCH:
            yield pa.concat_tables(tables).combine_chunks()
            tables = []
    if tables:
        yield pa.concat_tables(tables).combine_chunks()


def _keep_members(rows: pa.Table, *, part: tuple[float, float]) -> pa.Table:
    ids = rows["member_id"].unique().to_pylist()
    kept = [member_id for member_id in ids if is_in_part(member_id, part)]
    return rows.filter(pc.is_in(rows["member_id"], pa.array(kept, rows["member_id"].type)))

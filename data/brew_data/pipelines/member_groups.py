"""The common first steps of the pipelines: read the members of a shard, and send the compiler to workers."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from brew_data.entity_index import EntityIndex
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.control_tokens import ControlTokens
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tokenizer import Tokenizer
from brew_data.records import MemberHistory, Records, RecordTables
from brew_data.schema import micros
from brew_data.split import EVERYONE, are_in_part, hash_ids
from brew_data.table_shards import TableShards

__all__ = ["CompilerSpec", "compiler_spec", "load_compiler", "read_members", "read_shard"]


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


def read_shard(
    tables_folder: Path,
    shard: int,
    *,
    until: int,
    members: tuple[float, float] = EVERYONE,
    surfaces: Collection[str] | None = None,
    after: int | None = None,
) -> tuple[Records, pa.Table]:
    """Read the members of a shard, their interactions, and the entities of these.

    Args:
        tables_folder: The folder of the tables.
        shard: The number of the shard (`TableShards`).
        until: Later interactions are left out, in microseconds since 1970, UTC.
        members: The part of the members that is read (`is_in_part`).
        surfaces: Interactions on other surfaces are left out; None: on none.
        after: Members without a later interaction are left out; None: all members are read.

    Returns:
        The profiles and entities, and the rows of the interactions table.

    Raises:
        DataError: The tables are missing or damaged.
    """
    shards = TableShards.open(tables_folder)
    profiles = shards.read("members", shard)
    in_part = pa.array(are_in_part(hash_ids(profiles["member_id"].to_pylist()), members))
    profiles = profiles.filter(pc.and_not(in_part, profiles["opted_out"].combine_chunks()))
    rows = shards.read("interactions", shard)
    rows = rows.filter(pc.less_equal(micros(rows), until))
    rows = rows.filter(pc.is_in(rows["member_id"], value_set=profiles["member_id"].combine_chunks()))
    if surfaces is not None:
        rows = rows.filter(pc.is_in(rows["surface"], value_set=pa.array(sorted(surfaces), pa.string())))
    if after is not None:
        later = rows.filter(pc.greater(micros(rows), after))["member_id"].combine_chunks()
        rows = rows.filter(pc.is_in(rows["member_id"], value_set=later))
    entities = EntityIndex(tables_folder).take(pc.unique(rows["entity_id"]).to_pylist())
    return Records(RecordTables(profiles, entities)), rows


def read_members(
    tables_folder: Path,
    shard: int,
    *,
    until: int,
    members: tuple[float, float] = EVERYONE,
    surfaces: Collection[str] | None = None,
    after: int | None = None,
) -> Iterator[MemberHistory]:
    """Yield the members of a shard who have interactions. Arguments and errors are those of `read_shard`."""
    records, rows = read_shard(tables_folder, shard, until=until, members=members, surfaces=surfaces, after=after)
    return records.members(rows)

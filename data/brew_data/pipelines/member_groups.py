"""The common first steps of the Ray Data pipelines: group interactions by member, and send the compiler to workers."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data.grouped_data import GroupedData

from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.control_tokens import ControlTokens
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tokenizer import Tokenizer
from brew_data.records import Records
from brew_data.schema import micros
from brew_data.split import EVERYONE, is_in_part

__all__ = ["SHUFFLE_PARTITIONS", "CompilerSpec", "compiler_spec", "group_by_member", "load_compiler", "load_records"]

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
    """

    digest: str
    suite: str
    tokenizer: str
    control_tokens: ControlTokens
    format: PromptFormat

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CompilerSpec) and self.digest == other.digest

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
    )


@lru_cache(maxsize=1)
def load_compiler(spec: CompilerSpec) -> PromptCompiler:
    """Build the compiler that `compiler_spec` serialized. The result is cached, so a worker builds it once."""
    suite = TaskSuite.from_dict(json.loads(spec.suite))
    return PromptCompiler(suite, Tokenizer.from_json(spec.tokenizer, spec.control_tokens), spec.format)


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

"""The Ray Data pipeline from tables to the scoring requests of a benchmark."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from brew_data.pipelines.member_groups import CompilerSpec, compiler_spec, load_compiler, read_members
from brew_data.pipelines.shard_tasks import shard_dataset
from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.entity import PastInteraction
from brew_data.records import MemberHistory
from brew_data.split import Split
from brew_data.table_shards import TableShards

__all__ = ["REQUESTS", "build_requests", "compile_requests"]

REQUESTS = pa.schema(
    {
        "task": pa.string(),
        "member_id": pa.string(),
        "prefix_ids": pa.list_(pa.int32()),
        "question_ids": pa.list_(pa.list_(pa.int32())),
        "interaction_ids": pa.list_(pa.int64()),
    }
)
_ROWS_PER_BATCH = 256


def build_requests(
    tables_folder: Path,
    compiler: PromptCompiler,
    split: Split,
    *,
    only: Mapping[str, np.ndarray] | None = None,
    frozen_at: int | None = None,
) -> ray.data.Dataset:
    """Compile the scoring requests of the benchmark.

    Each row of the benchmark becomes one question for every task on its surface. A question sees only strictly earlier
    history. Rows with the same member, instant and task share one request if they have the same prefix. The requests
    of a member are sorted by time, so that each prefix extends the previous one.

    Args:
        tables_folder: The folder of the tables.
        compiler: Compiles the prompts.
        split: Rows after `benchmark_after` and up to `until` are scored.
        only: By task: the interaction ids that are scored, int64, ascending. None: all rows of all tasks.
        frozen_at: All rows are scored at one instant, with the history up to this time, inclusive, in microseconds.
            None: each at its own time.

    Returns:
        Rows of the schema `REQUESTS`.
    """
    return shard_dataset(
        _requests_of_shard,
        range(TableShards.open(tables_folder).count),
        tables_folder=tables_folder.absolute(),
        spec=compiler_spec(compiler),
        split=split,
        only=only,
        frozen_at=frozen_at,
    )


def compile_requests(
    members: Iterable[MemberHistory],
    compiler: PromptCompiler,
    *,
    after: int,
    only: Mapping[str, np.ndarray] | None = None,
    frozen_at: int | None = None,
) -> pa.Table:
    """Compile the requests of members.

    Args:
        members: The members, with all interactions up to the end of the benchmark.
        compiler: Compiles the prompts.
        after: Only rows with a later timestamp are scored, in microseconds since 1970, UTC.
        only: As for `build_requests`.
        frozen_at: As for `build_requests`.

    Returns:
        Rows of the schema `REQUESTS`.
    """
    return pa.Table.from_batches(_batches(members, compiler, after, only, frozen_at), REQUESTS)


def _requests_of_shard(
    shard: int,
    *,
    tables_folder: Path,
    spec: CompilerSpec,
    split: Split,
    only: Mapping[str, np.ndarray] | None,
    frozen_at: int | None,
) -> Iterator[pa.Table]:
    members = read_members(tables_folder, shard, until=split.until)
    for batch in _batches(members, load_compiler(spec), split.benchmark_after, only, frozen_at):
        yield pa.Table.from_batches([batch])


def _requests_of_member(
    member: MemberHistory,
    compiler: PromptCompiler,
    after: int,
    only: Mapping[str, np.ndarray] | None,
    frozen_at: int | None,
) -> Iterator[dict[str, Any]]:
    chosen = None if only is None else _choose(np.array(member.interaction_ids, np.int64), only)
    if chosen is not None and not any(chosen.values()):
        return
    prompts = compiler.member(member.profile, member.history)
    pairs = zip(member.history, member.interaction_ids, strict=True)
    scored = [(past, id_) for past, id_ in pairs if past.timestamp > after]

    def key(pair: tuple[PastInteraction, int]) -> tuple[int, str]:
        """Return the time before which history is seen, and the surface."""
        return pair[0].timestamp if frozen_at is None else frozen_at + 1, pair[0].surface

    for (before, surface), group in groupby(sorted(scored, key=key), key=key):
        rows = list(group)
        for task in compiler.suite.tasks_of(surface):
            kept = [(past, id_) for past, id_ in rows if chosen is None or id_ in chosen.get(task.name, ())]
            if not kept:
                continue
            prefixes = prompts.prefixes(task, [past.entity for past, _ in kept], before=before)
            shared: dict[int, dict[str, Any]] = {}  # by id of the prefix object
            for (past, id_), prefix in zip(kept, prefixes, strict=True):
                new = {"task": task.name, "member_id": member.member_id, "prefix_ids": prefix.ids}
                request = shared.setdefault(id(prefix), new | {"question_ids": [], "interaction_ids": []})
                request["question_ids"].append(compiler.question(task, member.profile, past.entity)[0])
                request["interaction_ids"].append(id_)
            yield from shared.values()


def _batches(
    members: Iterable[MemberHistory],
    compiler: PromptCompiler,
    after: int,
    only: Mapping[str, np.ndarray] | None,
    frozen_at: int | None,
) -> Iterator[pa.RecordBatch]:
    """Compile requests, few of which are Python objects at a time."""
    rows: list[dict[str, Any]] = []
    for request in chain.from_iterable(
        _requests_of_member(member, compiler, after, only, frozen_at) for member in members
    ):
        rows.append(request)
        if len(rows) == _ROWS_PER_BATCH:
            yield pa.RecordBatch.from_pylist(rows, schema=REQUESTS)
            rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=REQUESTS)


def _choose(ids: np.ndarray, only: Mapping[str, np.ndarray]) -> dict[str, set[int]]:
    """Return the elements of `ids` that `only` contains, by task."""
    chosen = {}
    for task, sorted_ids in only.items():
        places = np.minimum(np.searchsorted(sorted_ids, ids), max(0, len(sorted_ids) - 1))
        chosen[task] = set(ids[sorted_ids[places] == ids].tolist()) if len(sorted_ids) else set()
    return chosen

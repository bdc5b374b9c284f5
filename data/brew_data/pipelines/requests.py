"""The Ray Data pipeline from tables to the scoring requests of a benchmark."""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from brew_data.pipelines.member_groups import (
    CompilerSpec,
    compiler_spec,
    load_compiler,
    load_records,
    map_members,
)
from brew_data.prompts.compiler import PromptCompiler
from brew_data.split import Split

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


def build_requests(
    tables_folder: Path, compiler: PromptCompiler, split: Split, *, only: Mapping[str, np.ndarray] | None = None
) -> ray.data.Dataset:
    """Compile the scoring requests of the benchmark.

    Each row after the cut becomes one question for every task on its surface. A question sees only strictly earlier
    history. Rows with the same member, timestamp, task and shown history share one request with one prefix. The
    requests of a member are sorted by time, so that a prefix usually extends the previous one.

    Args:
        tables_folder: The folder with members, entities and interactions as Parquet.
        compiler: Compiles the prompts.
        split: Rows after `train_until` and up to `until` are scored.
        only: By task: the interaction ids that are scored, int64, ascending. None: all rows of all tasks.

    Returns:
        Rows of the schema `REQUESTS`.
    """
    return map_members(
        tables_folder,
        compile_requests,
        until=split.until,
        spec=compiler_spec(compiler),
        after=split.train_until,
        only=only,
    )


def compile_requests(
    rows: pa.Table,
    *,
    tables_folder: Path,
    spec: CompilerSpec,
    after: int,
    only: Mapping[str, np.ndarray] | None = None,
) -> pa.Table:
    """Compile one member's requests; runs in a Ray worker.

    Args:
        rows: All interactions of one member.
        tables_folder: Folder with the members and entities tables.
        spec: From `compiler_spec`.
        after: Only rows with a later timestamp are scored, in microseconds since 1970, UTC.
        only: As for `build_requests`.

    Returns:
        Rows of the schema `REQUESTS`; none for a member who opted out.
    """
    records, compiler = load_records(tables_folder), load_compiler(spec)
    member = rows["member_id"][0].as_py()
    requests: list[dict[str, Any]] = []
    chosen = None if only is None else _choose(rows["interaction_id"].to_numpy(), only)
    if (profile := records.profiles.get(member)) is not None and (chosen is None or any(chosen.values())):
        history = records.history(rows)
        prompts = compiler.member(profile, history)
        ids = rows.sort_by([("timestamp", "ascending"), ("interaction_id", "ascending")])["interaction_id"].to_pylist()
        scored = [(past, id_) for past, id_ in zip(history, ids, strict=True) if past.timestamp > after]
        for (timestamp, surface), group in groupby(
            sorted(scored, key=lambda pair: (pair[0].timestamp, pair[0].surface)),
            key=lambda pair: (pair[0].timestamp, pair[0].surface),
        ):
            pairs = list(group)
            for task in compiler.suite.tasks_of(surface):
                kept = [(past, id_) for past, id_ in pairs if chosen is None or id_ in chosen.get(task.name, ())]
                if not kept:
                    continue
                prefixes = prompts.prefixes(task, [past.entity for past, _ in kept], before=timestamp)
                shared: dict[int, dict[str, Any]] = {}  # by id of the prefix object
                for (past, id_), prefix in zip(kept, prefixes, strict=True):
                    new = {"task": task.name, "member_id": member, "prefix_ids": prefix.ids}
                    request = shared.setdefault(id(prefix), new | {"question_ids": [], "interaction_ids": []})
                    request["question_ids"].append(compiler.question(task, profile, past.entity)[0])
                    request["interaction_ids"].append(id_)
                requests += shared.values()
    return pa.Table.from_pylist(requests, schema=REQUESTS)


def _choose(ids: np.ndarray, only: Mapping[str, np.ndarray]) -> dict[str, set[int]]:
    """Return the elements of `ids` that `only` contains, by task."""
    chosen = {}
    for task, sorted_ids in only.items():
        places = np.minimum(np.searchsorted(sorted_ids, ids), max(0, len(sorted_ids) - 1))
        chosen[task] = set(ids[sorted_ids[places] == ids].tolist()) if len(sorted_ids) else set()
    return chosen

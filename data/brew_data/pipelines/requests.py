"""The Ray Data pipeline from tables to the scoring requests of a benchmark."""

from itertools import groupby
from pathlib import Path

import pyarrow as pa
import ray.data

from brew_data.pipelines.member_groups import (
    CompilerSpec,
    compiler_spec,
    group_by_member,
    load_compiler,
    load_records,
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


def build_requests(tables_folder: Path, compiler: PromptCompiler, split: Split) -> ray.data.Dataset:
    """Compile the benchmark's scoring requests: one question for every row after the cut and every task on its surface.

    A question sees only history that is strictly earlier. Rows of one member, moment and task share a request and its
    prefix. Requests of a member are in order of time, so that each prefix extends the previous one.

    Returns:
        Rows of the schema `REQUESTS`.
    """
    return group_by_member(tables_folder, until=split.until).map_groups(
        compile_requests,
        fn_kwargs={"tables_folder": tables_folder, "spec": compiler_spec(compiler), "after": split.train_until},
        batch_format="pyarrow",
    )


def compile_requests(rows: pa.Table, *, tables_folder: Path, spec: CompilerSpec, after: int) -> pa.Table:
    """Compile one member's requests; runs in a Ray worker.

    Args:
        rows: All interactions of one member.
        tables_folder: Folder with the members and entities tables.
        spec: From `compiler_spec`.
        after: Only rows with a later timestamp are scored, in microseconds since 1970.

    Returns:
        Rows of the schema `REQUESTS`; none for a member who opted out.
    """
    records, compiler = load_records(tables_folder), load_compiler(spec)
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
            for task in compiler.suite.tasks_of(surface):
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
    return pa.Table.from_pylist(requests, schema=REQUESTS)

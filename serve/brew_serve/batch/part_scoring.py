"""Scores the parts of a planned batch with Ray Data. Prompts are compiled from ids beside the engines.

A part is one row, so block boundaries cannot split it; the actor that scores it writes its file. A killed run loses
only the parts in progress: the next run makes the same plan and scores the missing parts.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data

from brew_data.prompts.compiler import Entity
from brew_platform.errors import UserError
from brew_serve.batch.dataset_scoring import BatchConfig, EngineActor
from brew_serve.batch.plan import BatchPlan, Part, write_part
from brew_serve.context.base import MemberContext
from brew_serve.engines.config import EngineConfig
from brew_serve.schemas.nearline import micros_of
from brew_serve.version import LoadedVersion, load_version

__all__ = ["SCORED", "score_parts"]

SCORED = pa.schema(
    {
        "row": pa.int64(),  # of the input, counted from 0 over all its files in the order of their names
        "task": pa.string(),
        "member_id": pa.string(),
        "candidate_id": pa.string(),
        "score": pa.float64(),  # P(any positive action); null where it could not be scored
        "probabilities": pa.list_(pa.struct({"action": pa.string(), "probability": pa.float64()})),
        "version": pa.int64(),  # of the model, in the registry
        "error": pa.string(),  # why there is no score; else null
    }
)

_PROMPTS = pa.schema(
    {
        "task": pa.string(),
        "prefix_ids": pa.list_(pa.int32()),
        "question_ids": pa.list_(pa.list_(pa.int32())),
        "interaction_ids": pa.list_(pa.int64()),  # here: places in the list of candidates
    }
)
_LISTED = pa.schema([SCORED.field(name) for name in ("row", "task", "member_id", "candidate_id", "error")])


def score_parts(
    plan: BatchPlan,
    parts: list[Part],
    out: Path,
    version_folder: Path,
    engine: EngineConfig,
    context_path: Path,
    config: BatchConfig,
    *,
    on_part: Callable[[int], None] = lambda rows: None,
) -> None:
    """Scores `parts` and writes their files; Ray must be initialised, and every node must see the folders.

    Args:
        out: of the plan.
        version_folder: see `brew_serve.version`.
        context_path: file of `MemberContext`.
        on_part: told the input rows of each part that is written.

    Raises:
        BrewError: the engine failed, or the input or the context cannot be read. Rows that cannot be scored raise
            nothing: their error is written beside them.
    """
    requests = ray.data.from_items([asdict(part) for part in parts], override_num_blocks=len(parts))
    prompts = requests.map_batches(
        make_prompts,
        fn_kwargs={"plan": plan, "version_folder": version_folder, "engine": engine, "context_path": context_path},
        batch_format="pyarrow",
        batch_size=1,
    )
    written = prompts.map_batches(
        _PartActor,
        fn_constructor_args=(version_folder, engine, config.in_flight, plan.version, out),
        batch_format="pyarrow",
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=config.engines),
        num_cpus=config.cpus,
        num_gpus=config.gpus,
    )
    for batch in written.iter_batches(batch_format="pyarrow", batch_size=None):
        for rows in batch["rows"].to_pylist():
            on_part(rows)


def make_prompts(
    batch: pa.Table, *, plan: BatchPlan, version_folder: Path, engine: EngineConfig, context_path: Path
) -> pa.Table:
    """One part's candidates and prompts, each a serialised table, in one row."""
    (row,) = batch.to_pylist()
    part = Part(**row)
    version, context = _version(version_folder, engine), _context(context_path)
    listed: list[dict[str, Any]] = []
    prompts: list[dict[str, Any]] = []
    for number, request in enumerate(plan.requests(part), start=part.first):
        _list_request(request, number, version, context, listed, prompts)
    return pa.table(
        {
            "part": [part.number],
            "rows": [part.rows],
            "listed": pa.array([_packed(pa.Table.from_pylist(listed, schema=_LISTED))], pa.large_binary()),
            "prompts": pa.array([_packed(pa.Table.from_pylist(prompts, schema=_PROMPTS))], pa.large_binary()),
        }
    )


def _list_request(
    request: dict[str, Any],
    number: int,
    version: LoadedVersion,
    context: MemberContext,
    listed: list[dict[str, Any]],
    prompts: list[dict[str, Any]],
) -> None:
    """Adds a request's candidates to `listed`, and its prompts to `prompts`: the same as online (`Scorer.prompts`)."""
    same = {"row": number, "task": request["task"], "member_id": request["member_id"]}
    candidates = request["candidates"] or []
    try:
        task = version.suite.task(request["task"])
        profile, history = context.member(request["member_id"])
        before = None if request["before"] is None else micros_of(request["before"])
        own_words = request["instruction"] or ""
        prefix = version.compiler.prefix(task, profile, history, before=before, own_words=own_words)
    except UserError as error:
        listed += [{**same, "candidate_id": id_, "error": str(error)} for id_ in candidates]
        return
    questions: dict[int, tuple[int, ...]] = {}
    for id_ in candidates:
        try:
            entity: Entity = context.entity(id_)
            questions[len(listed)] = version.compiler.question(task, profile, entity)[0]
            reason = None
        except UserError as error:
            reason = str(error)
        listed.append({**same, "candidate_id": id_, "error": reason})
    if questions:
        prompts.append(
            {
                "task": task.name,
                "prefix_ids": prefix.ids,
                "question_ids": list(questions.values()),
                "interaction_ids": list(questions),
            }
        )


class _PartActor(EngineActor):
    """One engine that scores parts and writes them."""

    def __init__(self, folder: Path, config: EngineConfig, in_flight: int, version: int, out: Path) -> None:
        super().__init__(folder, config, None, in_flight)
        self._number, self._out = version, out

    def __call__(self, batch: pa.Table) -> pa.Table:
        (part,) = batch.to_pylist()
        listed, prompts = _unpacked(part["listed"]), _unpacked(part["prompts"])
        write_part(self._out, part["part"], _scored(listed, super().__call__(prompts), self._number))
        return pa.table({"rows": [part["rows"]]})


def _scored(listed: pa.Table, scores: pa.Table, version: int) -> pa.Table:
    """`SCORED` for every listed candidate; `scores` are those that have one, by their place in the list."""
    places = scores["interaction_id"].to_pylist()
    columns: dict[str, list[Any]] = {"score": [None] * listed.num_rows, "probabilities": [None] * listed.num_rows}
    for name, column in columns.items():
        for place, value in zip(places, scores[name].to_pylist(), strict=True):
            column[place] = value
    columns["version"] = [version] * listed.num_rows
    arrays = {name: listed[name] for name in listed.column_names} | {
        name: pa.array(values, SCORED.field(name).type) for name, values in columns.items()
    }
    return pa.table({name: arrays[name] for name in SCORED.names}, schema=SCORED)


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def _unpacked(packed: bytes) -> pa.Table:
    return pa.ipc.open_stream(packed).read_all()


@lru_cache(maxsize=1)
def _version(folder: Path, engine: EngineConfig) -> LoadedVersion:
    return load_version(folder, engine)


@lru_cache(maxsize=1)
def _context(path: Path) -> MemberContext:
    return MemberContext(path)

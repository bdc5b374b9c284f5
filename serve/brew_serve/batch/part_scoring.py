"""Scores the parts of a planned batch with Ray Data. Ray tasks compile the prompts, and engine actors score them.

A part is one row of the dataset, so block boundaries cannot split it. The actor that scores it writes its file. A
killed run loses only the parts in progress: the next run makes the same plan and scores the missing parts.
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
        "row": pa.int64(),  # row of the input, counted from 0 over all files, sorted by name
        "task": pa.string(),
        "member_id": pa.string(),
        "candidate_id": pa.string(),
        "score": pa.float64(),  # P(any positive action); null if it could not be scored
        "probabilities": pa.list_(pa.struct({"action": pa.string(), "probability": pa.float64()})),
        "turns_dropped": pa.int64(),  # past interactions that the prompt does not show; null without a prompt
        "tokens_cut": pa.int64(),  # from instruction, profile, past entities and the candidate
        "fields_cut": pa.int64(),  # that were shortened or left out
        "version": pa.int64(),  # model version in the registry
        "error": pa.string(),  # why there is no score; else null
    }
)

_PROMPTS = pa.schema(
    {
        "task": pa.string(),
        "prefix_ids": pa.list_(pa.int32()),
        "question_ids": pa.list_(pa.list_(pa.int32())),
        "interaction_ids": pa.list_(pa.int64()),  # here: indices in the list of candidates
    }
)
_LISTED = pa.schema([field for field in SCORED if field.name not in ("score", "probabilities", "version")])


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
    """Score parts and write their files. Ray must be initialised, and the paths must exist on every node.

    A row that cannot be scored raises no error: the column `error` of its candidates says why.

    Args:
        plan: Plan of the batch.
        parts: The parts to score.
        out: Output folder of the plan.
        version_folder: A folder as described in `brew_serve.version`.
        engine: Settings of each engine.
        context_path: SQLite file of the `MemberContext`.
        config: Number of engines, and the work per engine.
        on_part: Called with the number of input rows of each part that was written.

    Raises:
        BrewError: The engine failed, or the input or the context cannot be read.
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
    """Compile the prompts of one part.

    Args:
        batch: One row with the fields of `Part`.
        plan: Plan of the batch.
        version_folder: A folder as described in `brew_serve.version`.
        engine: Settings of the engine.
        context_path: SQLite file of the `MemberContext`.

    Returns:
        One row: number and rows of the part, its candidates (`listed`), and its prompts, as serialized Arrow tables.
    """
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
            "listed": pa.array([_serialize(pa.Table.from_pylist(listed, schema=_LISTED))], pa.large_binary()),
            "prompts": pa.array([_serialize(pa.Table.from_pylist(prompts, schema=_PROMPTS))], pa.large_binary()),
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
    """Add the candidates of a request to `listed`, and its prompts to `prompts`; as `Scorer.compile_prompts` online."""
    columns = {"row": number, "task": request["task"], "member_id": request["member_id"]}
    candidates = request["candidates"] or []
    try:
        task = version.suite.task(request["task"])
        profile, history = context.member(request["member_id"])
        before = None if request["before"] is None else micros_of(request["before"])
        own_words = request["instruction"] or ""
        prefix = version.compiler.prefix(task, profile, history, before=before, own_words=own_words)
    except UserError as error:
        listed += [{**columns, "candidate_id": id_, "error": str(error)} for id_ in candidates]
        return
    questions: dict[int, tuple[int, ...]] = {}
    for id_ in candidates:
        try:
            entity: Entity = context.entity(id_)
            ids, question_cut = version.compiler.question(task, profile, entity)
        except UserError as error:
            listed.append({**columns, "candidate_id": id_, "error": str(error)})
            continue
        questions[len(listed)] = ids
        cut = prefix.head_cut + prefix.history_cut + question_cut
        listed.append(
            {
                **columns,
                "candidate_id": id_,
                "turns_dropped": prefix.turns_dropped,
                "tokens_cut": cut.tokens,
                "fields_cut": cut.fields,
            }
        )
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
    """An engine that scores parts and writes their files."""

    def __init__(self, folder: Path, config: EngineConfig, in_flight: int, version: int, out: Path) -> None:
        super().__init__(folder, config, None, in_flight)
        self._number, self._out = version, out

    def __call__(self, batch: pa.Table) -> pa.Table:
        (part,) = batch.to_pylist()
        listed, prompts = _deserialize(part["listed"]), _deserialize(part["prompts"])
        write_part(self._out, part["part"], _join_scores(listed, super().__call__(prompts), self._number))
        return pa.table({"rows": [part["rows"]]})


def _join_scores(listed: pa.Table, scores: pa.Table, version: int) -> pa.Table:
    """Return a table with the schema `SCORED` and one row per listed candidate.

    Args:
        listed: Candidates, with the schema `_LISTED`.
        scores: Scores, with the schema `SCORES`; `interaction_id` is the index of the candidate in `listed`.
        version: Model version in the registry.
    """
    indices = scores["interaction_id"].to_pylist()
    columns: dict[str, list[Any]] = {"score": [None] * listed.num_rows, "probabilities": [None] * listed.num_rows}
    for name, column in columns.items():
        for index, value in zip(indices, scores[name].to_pylist(), strict=True):
            column[index] = value
    columns["version"] = [version] * listed.num_rows
    arrays = {name: listed[name] for name in listed.column_names} | {
        name: pa.array(values, SCORED.field(name).type) for name, values in columns.items()
    }
    return pa.table({name: arrays[name] for name in SCORED.names}, schema=SCORED)


def _serialize(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _deserialize(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


@lru_cache(maxsize=1)
def _version(folder: Path, engine: EngineConfig) -> LoadedVersion:
    return load_version(folder, engine)


@lru_cache(maxsize=1)
def _context(path: Path) -> MemberContext:
    return MemberContext(path)

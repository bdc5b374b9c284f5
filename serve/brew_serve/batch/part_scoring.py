"""Scores the parts of a planned batch with Ray Data. Ray tasks read and compile, and engine actors score.

    row groups ──read_parts──> parts ──make_prompts──> prompts ──_PartActor──> files

Each row group is decoded once, whatever its number of parts. A part is one row of the dataset, so block boundaries
cannot split it. The actor that scores it writes its file. A killed run loses only the parts in progress: the next run
makes the same plan and scores the missing parts.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import ray.data

from brew_data.privacy.pseudonyms import PseudonymConfig
from brew_data.prompts.compiler import Cut, Entity
from brew_data.prompts.history import HistoryPolicy
from brew_platform.errors import BrewError, UserError
from brew_serve.batch.dataset_scoring import BatchConfig, EngineActor, EngineFactory, score_candidates
from brew_serve.batch.plan import ATTEMPTS, BatchPlan, Part, write_part
from brew_serve.batch.quarantine import Attempts
from brew_serve.context.base import Context
from brew_serve.context.location import open_context
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.registry import create_engine
from brew_serve.ranking.calibration import calibrate, require_calibration
from brew_serve.ranking.scoring import Scored
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
        "calibrated": pa.bool_(),  # whether score and probabilities are calibrated
        "error": pa.string(),  # why there is no score; else null
    }
)

_RESULTS = ("score", "probabilities", "version", "calibrated")

_PROMPTS = pa.schema(
    {
        "task": pa.string(),
        "prefix_ids": pa.list_(pa.int32()),
        "question_ids": pa.list_(pa.list_(pa.int32())),
        "interaction_ids": pa.list_(pa.int64()),  # here: indices in the list of candidates
    }
)
_LISTED = pa.schema([field for field in SCORED if field.name not in _RESULTS])


def score_parts(
    plan: BatchPlan,
    parts: list[Part],
    out: Path,
    version_folder: Path,
    engine: EngineConfig,
    context_path: str,
    config: BatchConfig,
    *,
    history: Mapping[str, HistoryPolicy] = MappingProxyType({}),
    pseudonyms: PseudonymConfig | None = None,
    calibrated: bool = False,
    on_part: Callable[[int], None] = lambda rows: None,
    engine_factory: EngineFactory = create_engine,
) -> None:
    """Score parts and write their files. Ray must be initialised, and the paths must exist on every node.

    A row that cannot be scored raises no error: the column `error` of its candidates says why. That holds for requests
    that end the engine, too (`quarantine`).

    Args:
        plan: Plan of the batch.
        parts: The parts to score.
        out: Output folder of the plan.
        version_folder: A folder as described in `brew_serve.version`.
        engine: Settings of each engine.
        context_path: Location of the member context (`open_context`).
        config: Number of engines, and the work per engine.
        history: Policies that replace those of the version, by task.
        pseudonyms: The key of the pseudonyms of the members in the context; None: they have their ids. It is read on
            every node.
        calibrated: Write calibrated probabilities. Candidates of a task without a map get an error.
        on_part: Called with the number of input rows of each part that was written.
        engine_factory: Creates an engine from the folder and the settings.

    Raises:
        BrewError: The engine does not start or ends with any request, or the input or the context cannot be read.
    """
    groups = [list(group) for _, group in groupby(parts, key=lambda part: (part.file, part.group))]
    rows = [{"parts": [asdict(part) for part in group]} for group in groups]
    scored = (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map_batches(read_parts, fn_kwargs={"plan": plan}, batch_format="pyarrow", batch_size=1)
        .repartition(target_num_rows_per_block=1)
        .map_batches(
            make_prompts,
            fn_kwargs={
                "version_folder": version_folder,
                "engine": engine,
                "context_path": context_path,
                "history": dict(history),
                "pseudonyms": pseudonyms,
            },
            batch_format="pyarrow",
            batch_size=1,
        )
        .map_batches(
            _PartActor,
            fn_constructor_args=(version_folder, engine, config, plan.version, out, engine_factory, calibrated),
            batch_format="pyarrow",
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=config.engines),
            num_cpus=config.cpus,
            num_gpus=config.gpus,
        )
    )
    for batch in scored.iter_batches(batch_format="pyarrow", batch_size=None):
        for count in batch["rows"].to_pylist():
            on_part(count)


def read_parts(batch: pa.Table, *, plan: BatchPlan) -> Iterator[pa.Table]:
    """Read the parts of one row group, which is decoded once.

    Args:
        batch: One row: `parts`, a list of structs with the fields of `Part`.
        plan: Plan of the batch.

    Yields:
        One row per part: the fields of `Part`, and `requests`, its rows as a serialized Arrow table
        (`BatchPlan.requests`).
    """
    for row in batch["parts"].to_pylist():
        for part, requests in plan.requests([Part(**fields) for fields in row]):
            columns = {name: [value] for name, value in asdict(part).items()}
            yield pa.table(columns | {"requests": pa.array([_serialize(requests)], pa.large_binary())})


def make_prompts(
    batch: pa.Table,
    *,
    version_folder: Path,
    engine: EngineConfig,
    context_path: str,
    history: Mapping[str, HistoryPolicy] = MappingProxyType({}),
    pseudonyms: PseudonymConfig | None = None,
) -> pa.Table:
    """Compile the prompts of one part.

    Args:
        batch: One row of `read_parts`.
        version_folder: A folder as described in `brew_serve.version`.
        engine: Settings of the engine.
        context_path: Location of the member context.
        history: As for `score_parts`.
        pseudonyms: As for `score_parts`.

    Returns:
        One row: number and rows of the part, its candidates (`listed`), and its prompts, as serialized Arrow tables.
    """
    (part,) = batch.to_pylist()
    version = _version(version_folder, engine, tuple(sorted(history.items(), key=itemgetter(0))))
    context = _context(context_path, pseudonyms)
    listed: list[dict[str, Any]] = []
    prompts: list[dict[str, Any]] = []
    for number, request in enumerate(_deserialize(part["requests"]).to_pylist(), start=part["first"]):
        _list_request(request, number, version, context, listed, prompts)
    return pa.table(
        {
            "part": [part["number"]],
            "rows": [part["rows"]],
            "listed": pa.array([_serialize(pa.Table.from_pylist(listed, schema=_LISTED))], pa.large_binary()),
            "prompts": pa.array([_serialize(pa.Table.from_pylist(prompts, schema=_PROMPTS))], pa.large_binary()),
        }
    )


def _list_request(
    request: dict[str, Any],
    number: int,
    version: LoadedVersion,
    context: Context,
    listed: list[dict[str, Any]],
    prompts: list[dict[str, Any]],
) -> None:
    """Add the candidates of a request to `listed`, and its prompts to `prompts`, one row for each different prefix.

    The prompts are those of `Scorer.compile_prompts` online.
    """
    rows = [
        {"row": number, "task": request["task"], "member_id": request["member_id"], "candidate_id": id_}
        for id_ in request["candidates"] or []
    ]
    first = len(listed)
    listed += rows
    entities: dict[int, Entity] = {}  # by place in `listed`
    questions: dict[int, tuple[tuple[int, ...], Cut]] = {}
    try:
        task = version.suite.task(request["task"])
        profile, history = context.member(_require(request["member_id"], "member"))
        for place, row in enumerate(rows, start=first):
            try:
                entity = context.entity(_require(row["candidate_id"], "candidate"))
                questions[place] = version.compiler.question(task, profile, entity)
                entities[place] = entity
            except UserError as error:
                row["error"] = str(error)
        member, own_words = version.compiler.member(profile, history), request["instruction"] or ""
        prefixes = member.prefixes(task, list(entities.values()), before=request["before"], own_words=own_words)
    except UserError as error:  # of all candidates
        for row in rows:
            row["error"] = str(error)
        return
    requests: dict[int, dict[str, Any]] = {}  # by id of the prefix object
    for (place, (question_ids, question_cut)), prefix in zip(questions.items(), prefixes, strict=True):
        new = {"task": task.name, "prefix_ids": prefix.ids, "question_ids": [], "interaction_ids": []}
        shared = requests.setdefault(id(prefix), new)
        shared["question_ids"].append(question_ids)
        shared["interaction_ids"].append(place)
        cut = prefix.head_cut + prefix.history_cut + question_cut
        listed[place] |= {
            "turns_dropped": prefix.turns_dropped,
            "tokens_cut": cut.tokens,
            "fields_cut": cut.fields,
        }
    prompts += requests.values()


def _require(id_: str | None, kind: str) -> str:
    if id_ is None:
        raise UserError(f"{kind} None is unknown here; give its id.")
    return id_


class _PartActor(EngineActor):
    """An engine that scores parts and writes their files. It starts its engine again when a request ends it."""

    def __init__(
        self,
        folder: Path,
        engine: EngineConfig,
        config: BatchConfig,
        version: int,
        out: Path,
        engine_factory: EngineFactory,
        calibrated: bool,
    ) -> None:
        super().__init__(folder, engine, None, config.in_flight, engine_factory)
        self._config, self._number, self._out, self._calibrated = config, version, out, calibrated

    def __call__(self, batch: pa.Table) -> pa.Table:
        (part,) = batch.to_pylist()
        listed, prompts = _deserialize(part["listed"]), _deserialize(part["prompts"])
        path = self._out / ATTEMPTS / f"part-{part['part']:05d}.json"
        attempts = Attempts(path, prompts.num_rows, self._config.most_attempts)
        results = score_in_passes(prompts, attempts, self._score, self.restart)
        if self._calibrated:
            results = calibrate_results(listed, results, self._loaded, self._number)
        scored = join_scores(listed, results, self._number, calibrated=self._calibrated)
        write_part(self._out, part["part"], scored)
        attempts.finish()
        return pa.table({"rows": [part["rows"]]})

    def _score(self, prompts: pa.Table) -> list[Scored | BrewError]:
        return self._runner.run(score_candidates(self._scorer, prompts, in_flight=self._config.in_flight))


def score_in_passes(
    prompts: pa.Table,
    attempts: Attempts,
    score: Callable[[pa.Table], list[Scored | BrewError]],
    restart: Callable[[], None],
) -> dict[int, Scored | BrewError]:
    """Score the requests of a part, except those that end the engine.

    Args:
        prompts: One row per request.
        attempts: The passes of the part.
        score: Scores some of the rows; returns one result per candidate.
        restart: Called after `score` has raised.

    Returns:
        The result of each candidate, by its index in the list of candidates (`interaction_ids`).

    Raises:
        BrewError: As `Attempts.fail` and `restart`.
    """
    results: dict[int, Scored | BrewError] = {}
    ids: list[list[int]] = prompts["interaction_ids"].to_pylist()
    for segment in attempts:
        requests = slice(segment.start, segment.stop)
        try:
            found = score(prompts.slice(segment.start, segment.stop - segment.start))
        except Exception as error:  # the engine ended, or cannot compute one of these prompts
            attempts.fail(f"{type(error).__name__}: {error}")
            restart()
            continue
        results |= dict(zip((id_ for request in ids[requests] for id_ in request), found, strict=True))
    for index, sentence in attempts.abandoned().items():
        results |= dict.fromkeys(ids[index], BrewError(sentence))
    return results


def calibrate_results(
    listed: pa.Table, results: dict[int, Scored | BrewError], version: LoadedVersion, number: int
) -> dict[int, Scored | BrewError]:
    """Return results with calibrated probabilities; those of a task without a map become an error.

    Args:
        listed: As in `join_scores`.
        results: As in `join_scores`, raw.
        version: The version that scored them.
        number: Its number in the registry.
    """
    by_task: dict[str, dict[int, Scored]] = {}
    for index, result in results.items():
        if isinstance(result, Scored):
            by_task.setdefault(listed["task"][index].as_py(), {})[index] = result
    calibrated: dict[int, Scored | BrewError] = dict(results)
    for name, scored in by_task.items():
        task = version.suite.task(name)
        try:
            calibration = require_calibration(version.calibration, task, number)
        except UserError as error:
            calibrated |= dict.fromkeys(scored, error)
            continue
        calibrated |= zip(scored, calibrate(list(scored.values()), task, calibration), strict=True)
    return calibrated


def join_scores(
    listed: pa.Table, results: dict[int, Scored | BrewError], version: int, *, calibrated: bool = False
) -> pa.Table:
    """Return a table with the schema `SCORED` and one row per listed candidate.

    Args:
        listed: Candidates, with the schema `_LISTED`.
        results: Scores or an error of the candidates that have a prompt, by their index in `listed`.
        version: Model version in the registry.
        calibrated: Whether the scores are calibrated.
    """
    rows = listed.to_pylist()
    for index, row in enumerate(rows):
        row |= {"score": None, "probabilities": None, "version": version, "calibrated": calibrated}
        result = results.get(index)
        if isinstance(result, Scored):
            pairs = [{"action": name, "probability": value} for name, value in result.probabilities.items()]
            row |= {"score": result.score, "probabilities": pairs}
        elif result is not None:
            row["error"] = str(result)
    return pa.Table.from_pylist(rows, schema=SCORED)


def _serialize(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _deserialize(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


@lru_cache(maxsize=1)
def _version(folder: Path, engine: EngineConfig, history: tuple[tuple[str, HistoryPolicy], ...]) -> LoadedVersion:
    return load_version(folder, engine, dict(history))


@lru_cache(maxsize=1)
def _context(location: str, pseudonyms: PseudonymConfig | None) -> Context:
    return open_context(location, None if pseudonyms is None else pseudonyms.open())

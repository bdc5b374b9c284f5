"""Scores a Ray Data dataset with engine actors, which use the same engine and scorer as online serving.

`brew_data.pipelines.requests` makes the requests, one row per prefix.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import ray.data

from brew_platform.errors import BrewError, DataError, UserError
from brew_serve.batch.actor_log import open_actor_log
from brew_serve.batch.config import BatchConfig
from brew_serve.engines.base import Engine, Shared
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.logprobs import InvalidOutput
from brew_serve.engines.registry import create_engine
from brew_serve.ranking.concurrency import gather_until
from brew_serve.ranking.scoring import Scored, Scorer
from brew_serve.version import load_version

__all__ = ["SCORES", "BatchConfig", "EngineActor", "score_candidates", "score_requests", "score_table"]

Ids = tuple[int, ...]
EngineFactory = Callable[[Path, EngineConfig], Engine]

COLUMNS = ("task", "prefix_ids", "question_ids", "interaction_ids")

SCORES = pa.schema(
    {
        "interaction_id": pa.int64(),
        "task": pa.string(),
        "score": pa.float64(),  # P(any positive action)
        "probabilities": pa.list_(pa.struct({"action": pa.string(), "probability": pa.float64()})),
        "version": pa.string(),  # the argument of `score_requests`; null without it
    }
)


def score_requests(
    requests: ray.data.Dataset,
    version_folder: Path,
    engine: EngineConfig | None = None,
    *,
    version: str | None = None,
    config: BatchConfig | None = None,
) -> ray.data.Dataset:
    """Score every candidate of every request.

    The rows of one member should be consecutive and sorted by time. Each prefix then extends the previous one, and the
    engine computes only the new tokens.

    Args:
        requests: Rows {task: str, prefix_ids: list<int32>, question_ids: list<list<int32>>, interaction_ids:
            list<int64>}. Other columns are ignored. question_ids and interaction_ids have one entry per candidate.
        version_folder: A folder as described in `brew_serve.version`, at the same path on every node.
        engine: Settings of each engine.
        version: Value of the column `version`.
        config: Number of engines, and the work per engine.

    Returns:
        One row per candidate with the schema `SCORES`; computed lazily by Ray Data.

    Raises:
        UserError: The folder is not a valid version, or a column is known to be missing. Ray Data raises later errors,
            while the result is consumed, as its own; their text contains ours.
    """
    load_version(version_folder, engine)
    if (schema := requests.schema(fetch_if_missing=False)) is not None:
        _check_columns(schema.names)
    config = config or BatchConfig()
    # One block per batch: Ray Data returns a block only when all its batches are done.
    return requests.repartition(target_num_rows_per_block=config.rows).map_batches(
        EngineActor,
        fn_constructor_args=(version_folder, engine, version, config.in_flight),
        batch_format="pyarrow",
        batch_size=config.rows,
        compute=ray.data.ActorPoolStrategy(size=config.engines),
        num_cpus=config.cpus,
        num_gpus=config.gpus,
        zero_copy_batch=True,
    )


async def score_table(scorer: Scorer, requests: pa.Table, *, version: str | None, in_flight: int) -> pa.Table:
    """Score one table of requests.

    Args:
        scorer: Scores the prompts.
        requests: Rows as in `score_requests`.
        version: Value of the column `version`.
        in_flight: Maximum number of prompts in the engine at a time.

    Returns:
        One row per candidate with the schema `SCORES`, in the order of the requests.

    Raises:
        DataError: A column is missing, or a row's numbers of questions and ids differ.
        UserError: A task is unknown, or a prompt is invalid for the model.
        InvalidOutput: The model computed a number that is not a probability.
    """
    results = await score_candidates(scorer, requests, in_flight=in_flight)
    for result in results:
        if isinstance(result, BrewError):
            raise result
    rows = requests.select(["task", "interaction_ids"]).to_pylist()
    tasks = [row["task"] for row in rows for _ in row["interaction_ids"]]
    ids = [id_ for row in rows for id_ in row["interaction_ids"]]
    return _as_table(ids, tasks, [result for result in results if isinstance(result, Scored)], version)


async def score_candidates(scorer: Scorer, requests: pa.Table, *, in_flight: int) -> list[Scored | BrewError]:
    """Score the candidates of a table of requests; one that cannot be scored does not stop the others.

    The candidates of a request share their prefix, which the engine computes once.

    Args:
        scorer: Scores the prompts.
        requests: Rows as in `score_requests`.
        in_flight: Maximum number of prompts in the engine at a time.

    Returns:
        For each candidate, in the order of the requests: its scores, or a UserError or InvalidOutput.

    Raises:
        DataError: A column is missing, or a row's numbers of questions and ids differ.
        BrewError: The engine failed.
    """
    _check_columns(requests.column_names)
    free = asyncio.Semaphore(in_flight)

    async def score_question(name: str, prefix: Ids, question: Ids, shared: Shared) -> Scored | BrewError:
        async with free:
            try:
                return await scorer.score_prompt(scorer.compiler.suite.task(name), prefix, question, shared)
            except (UserError, InvalidOutput) as error:
                return error

    calls = []
    for row in requests.select(COLUMNS).to_pylist():
        if len(row["question_ids"]) != len(row["interaction_ids"]):
            raise DataError(
                f"a scoring request has {len(row['question_ids'])} questions and {len(row['interaction_ids'])} "
                f"interaction ids (the first is {row['interaction_ids'][:1]}); give one id per question."
            )
        prefix, questions = tuple(row["prefix_ids"]), [tuple(ids) for ids in row["question_ids"]]
        shared = Shared(ids=prefix + Shared.of(questions).ids)
        calls += [(row["task"], prefix, question, shared) for question in questions]
    if not calls:
        return []
    results = await gather_until(score_question(*call) for call in calls)
    return [result for result in results if result is not None]  # without a time limit, all have one


def _check_columns(names: Sequence[str]) -> None:
    if missing := [name for name in COLUMNS if name not in names]:
        raise DataError(
            f"scoring requests lack column {missing[0]!r} (they have {', '.join(names)}). Build rows with the columns "
            f"{', '.join(COLUMNS)}."
        )


def _as_table(ids: list[int], tasks: list[str], scored: Iterable[Scored], version: str | None) -> pa.Table:
    rows = [
        {
            "interaction_id": id_,
            "task": task,
            "score": candidate.score,
            "probabilities": [
                {"action": name, "probability": value} for name, value in candidate.probabilities.items()
            ],
            "version": version,
        }
        for id_, task, candidate in zip(ids, tasks, scored, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SCORES)


async def _probe(engine: Engine) -> None:
    await engine.next_token_logprobs([0], [0])


class EngineActor:
    """One engine and its event loop, for as long as the Ray Data job runs; the engine ends with the actor."""

    def __init__(
        self,
        folder: Path,
        config: EngineConfig | None,
        version: str | None,
        in_flight: int,
        engine_factory: EngineFactory = create_engine,
    ) -> None:
        self._log = open_actor_log()
        self._factory = engine_factory
        self._folder, self._loaded = folder, load_version(folder, config)
        self._runner = asyncio.Runner()
        self._version, self._in_flight = version, in_flight
        self._start()

    def _start(self) -> None:
        self._engine = self._factory(self._folder, self._loaded.engine)
        self._scorer = Scorer(self._engine, self._loaded.compiler)

    def restart(self) -> None:
        """Start the engine again if it has ended.

        Raises:
            BrewError: It does not start, or does not answer one token: the prompts are not the cause.
        """
        try:
            self._engine.check()
        except BrewError:
            self._engine.close()
            self._start()
        self._runner.run(_probe(self._engine))

    def __call__(self, requests: pa.Table) -> pa.Table:
        return self._runner.run(score_table(self._scorer, requests, version=self._version, in_flight=self._in_flight))

    def __del__(self) -> None:
        """Called by Ray Data at the end of the job. The engine also ends if the actor is killed."""
        if hasattr(self, "_engine"):
            self._engine.close()

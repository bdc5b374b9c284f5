"""Answers ranking requests with one loaded model version, without HTTP and without Ray."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from brew_data.prompts.compiler import Entity, PastInteraction
from brew_data.prompts.tasks import TaskSpec
from brew_platform.errors import BrewError, UserError
from brew_platform.tracing import start_span
from brew_serve.context.base import Context
from brew_serve.engines.base import Engine, check_length
from brew_serve.engines.logprobs import InvalidOutput, require_logprobs
from brew_serve.errors import BrokenVersion, Expired
from brew_serve.metrics import Meters
from brew_serve.ranking.admission import AdmissionConfig, AdmissionController
from brew_serve.ranking.answer_log import AnswerLog, Origin
from brew_serve.ranking.answer_log_config import AnswerLogConfig
from brew_serve.ranking.calibration import require_calibration
from brew_serve.ranking.compilation import INLINE_CHARACTERS, CompilationPool, TextPrompts, count_characters
from brew_serve.ranking.response import ranking_fields
from brew_serve.ranking.scoring import Prompts, Ranking, Scorer
from brew_serve.schemas.rank import InlineCandidate, RankRequest, RankResponse
from brew_serve.version import LoadedVersion

__all__ = ["Costed", "RankingService"]

T = TypeVar("T")

_LOG = logging.getLogger("brew_serve")
_PARSING_THREADS = 1  # it holds the interpreter's lock most of the time, so a second one would only slow the event loop
_READING_THREADS = 4  # for the member context
_INLINE_RECORDS = 500  # interactions and candidates that are read in the event loop; takes less than 5 ms


@dataclass(frozen=True, kw_only=True)
class _Records:
    """The records that a ranking request names or contains.

    Args:
        history: Sorted by time.
        candidates: Pairs of id and entity.
        characters: Of the text that their prompts encode.
    """

    profile: dict[str, object]
    history: list[PastInteraction]
    candidates: list[tuple[str, Entity]]
    characters: int


@dataclass(frozen=True, kw_only=True)
class Costed(Generic[T]):
    """A response and its cost.

    Args:
        response: The response.
        tokens: Predicted work in tokens that admission accepted for it; 0 if it needed no engine.
    """

    response: T
    tokens: int = 0


class RankingService:
    """One model version and its engine.

    Args:
        number: The version's number in the registry.
        version: The loaded version folder.
        engine: Runs the model; `close` closes it.
        context: Members and entities by id; None if every request must carry them inline.
        name: Name of the model in the registry; clients of the OpenAI protocol request it by this name.
        admission: How much work the service accepts.
        answer_log: Settings of the log of its rankings; None for no log.
        clock: Seconds; arrival times and deadlines are on it.

    Raises:
        UserError: The key of the answer log cannot be read.
    """

    def __init__(
        self,
        number: int,
        version: LoadedVersion,
        engine: Engine,
        context: Context | None,
        *,
        name: str = "brew360",
        admission: AdmissionConfig | None = None,
        answer_log: AnswerLogConfig | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.number, self.version, self.engine, self.context = number, version, engine, context
        self.name, self.clock = name, clock
        self.meters = Meters(lambda: engine.usage)
        self.meters.invalid.labels(str(number))  # 0 from the start, so that the first one is an increase
        admission = admission or AdmissionConfig()
        self.admission = AdmissionController(admission, self.meters, clock)
        self.compilation = CompilationPool(self.meters, max_outstanding_tokens=admission.max_outstanding_tokens)
        self._reading = ThreadPoolExecutor(_READING_THREADS, "records")
        self.parsing = ThreadPoolExecutor(_PARSING_THREADS, "parsing")  # of large bodies
        self._answers = None if answer_log is None else AnswerLog(answer_log, version=number, meters=self.meters)
        self.closing = False
        self.fault = ""  # why no request should be sent here; empty if there is no reason
        self._scorer = Scorer(engine, version.compiler)

    async def rank(
        self, request: RankRequest, arrival: float | None = None, origin: Origin | None = None
    ) -> Costed[RankResponse]:
        """Rank the candidates of the request; at its deadline, rank those that are scored by then.

        Args:
            arrival: Seconds on the clock when the request arrived; None for now.
            origin: Where it comes from, for the log of answers; None: it is not logged.

        Raises:
            Uncalibrated: Calibrated probabilities of a version that has no calibration map of the task.
            UnknownId: The context does not hold a member or candidate id.
            Expired: The deadline passed before any work began.
            Overloaded: The service has no capacity now.
            BrokenVersion: The model computed NaN or another number that is not a probability.
            UserError: An unknown task, surface or action, a candidate of another type, or ids without a context.
        """
        start = self.clock()
        arrival = start if arrival is None else arrival
        self.meters.stage_seconds.labels("receive").observe(start - arrival)
        deadline = None if request.deadline_ms is None else arrival + request.deadline_ms / 1000
        seconds = self._require_time(request.deadline_ms, deadline)
        task = self.version.suite.task(request.task)
        calibration = require_calibration(self.version.calibration, task, self.number) if request.calibrated else None
        least = self._scorer.least_work(task, len(request.candidates))
        with self.admission.reserve(least, deadline), self.measure("prepare"):
            try:
                async with asyncio.timeout(seconds) as limit:
                    records, prompts = await self._prepare(request, task)
            except TimeoutError:
                if limit.expired():
                    raise _expired(request.deadline_ms) from None
                raise
        seconds = self._require_time(request.deadline_ms, deadline)
        with self.admission.admit(prompts.work, deadline) as admitted, self.measure("score"), self.name_version():
            ranking = await self._scorer.rank_prompts(prompts, seconds=seconds, on_scored=admitted.finish)
        with self.measure("answer"):
            self._count(task, ranking)
            response = RankResponse(
                version=self.number,
                task=task.name,
                partial=bool(ranking.unscored),
                unscored=ranking.unscored,
                milliseconds=(self.clock() - start) * 1000,
                **ranking_fields(ranking, task, request.top_k, calibration),
            )
            if self._answers is not None and origin is not None:
                locale = records.profile.get("locale")
                self._answers.add(
                    origin,
                    request,
                    task,
                    ranking,
                    history=len(records.history),
                    locale=None if locale is None else str(locale),
                )
            return Costed(response=response, tokens=prompts.work)

    async def compile_text(
        self, prompts: TextPrompts, *, answer_tokens: int = 0, shared: bool = False
    ) -> list[tuple[int, ...]]:
        """Encode the prompts of a request, after their sizes are checked; `admission.admit` must follow.

        Args:
            prompts: The prompts.
            answer_tokens: Tokens of work that the answer to each prompt adds.
            shared: Whether the prompts can have a common prefix, which the engine computes once.

        Returns:
            Token ids of each prompt.

        Raises:
            Overloaded: The service has no capacity now.
            UserError: A prompt does not fit into the context, or the request exceeds a limit. Nothing is encoded if a
                lower bound of the tokens says so.
        """
        compiler = self.version.compiler
        context = self.version.engine.max_model_len or compiler.format.context_length
        least = prompts.least_tokens(compiler.tokenizer.longest_token)
        check_length(max(least), context_length=context, at_least=True)
        size = prompts.size
        self.compilation.require_size(size.characters + size.ids)
        work = max(least) if shared else sum(least) + len(least) * answer_tokens
        with self.admission.reserve(work), self.measure("prepare"):
            return await self.compilation.run(
                partial(prompts.encode, context_length=context, most_in_all=self.compilation.max_characters),
                characters=size.effort,
            )

    @contextmanager
    def measure(self, stage: str, *, streams: bool = False) -> Iterator[None]:
        """Record the duration of the block as a stage of a request, and as a span.

        Args:
            stage: Its name.
            streams: The block is in an asynchronous generator.
        """
        start = self.clock()
        try:
            with start_span(stage, current=not streams):
                yield
        finally:
            self.meters.stage_seconds.labels(stage).observe(self.clock() - start)

    @contextmanager
    def name_version(self) -> Iterator[None]:
        """Name this version in errors about invalid numbers of the model. After one, the service is not ready.

        Raises:
            BrokenVersion: In place of an InvalidOutput.
        """
        try:
            yield
        except InvalidOutput as error:
            self.fault = (
                f"version {self.number} of {self.name} cannot answer: {error} Promote another version, or roll back "
                f"with brew360 registry rollback."
            )
            self.meters.invalid.labels(str(self.number)).inc()
            _LOG.error("%s", self.fault)
            raise BrokenVersion(self.fault) from error

    async def probe(self) -> None:
        """Compute one tiny prompt. If its result is valid, a service with a fault is ready again.

        Raises:
            BrokenVersion: The result is not a log-probability.
            BrewError: The engine failed.
        """
        with self.name_version():
            require_logprobs(await self.engine.next_token_logprobs([0], [0]))
        self.fault = ""

    def check_health(self) -> int:
        """Return the version number.

        Raises:
            BrewError: The engine failed, and the process should be restarted.
        """
        self.engine.check()
        return self.number

    def check_ready(self) -> int:
        """Return the version number.

        Raises:
            BrewError: The service should get no requests now.
        """
        if self.closing:
            raise BrewError("the service is shutting down; send requests to another replica.")
        if self.fault:
            raise BrewError(self.fault)
        return self.check_health()

    def close(self) -> None:
        """Close the engine, its processes, the threads and the context."""
        self.closing = True
        self.compilation.close()
        self._reading.shutdown(wait=False, cancel_futures=True)
        self.parsing.shutdown(wait=False, cancel_futures=True)
        if self._answers is not None:
            self._answers.close()
        self.engine.close()
        if self.context is not None:
            self.context.close()

    def _require_time(self, milliseconds: int | None, deadline: float | None) -> float | None:
        """Return the seconds left until the deadline; None without a deadline."""
        if deadline is None:
            return None
        left = deadline - self.clock()
        if left <= 0:
            raise _expired(milliseconds)
        return left

    def _count(self, task: TaskSpec, ranking: Ranking) -> None:
        version = str(self.number)
        self.meters.items.labels(task.name, version).inc(len(ranking.candidates))
        self.meters.unscored.labels(task.name).inc(len(ranking.unscored))
        histogram = self.meters.score.labels(task.name, version)
        for candidate in ranking.candidates:
            histogram.observe(candidate.score)

    async def _prepare(self, request: RankRequest, task: TaskSpec) -> tuple[_Records, Prompts]:
        """Read the records of a request and compile its prompts.

        The event loop answers other requests while much is read or encoded.
        """
        if self._is_small(request):
            records = self._read(request, task)
        else:
            threads = self.parsing if self._is_inline(request) else self._reading
            records = await asyncio.get_running_loop().run_in_executor(threads, self._read, request, task)
        prompts = await self.compilation.run(
            lambda watch: self._scorer.compile_prompts(
                task,
                records.profile,
                records.history,
                records.candidates,
                request.instruction,
                most_tokens=self.compilation.max_characters,
                watch=watch,
            ),
            characters=records.characters,
        )
        return records, prompts

    def _is_inline(self, request: RankRequest) -> bool:
        return request.member is not None and not any(isinstance(candidate, str) for candidate in request.candidates)

    def _is_small(self, request: RankRequest) -> bool:
        """Return whether the records are read in the event loop: nothing is in the context, and they are short."""
        inline = [candidate for candidate in request.candidates if not isinstance(candidate, str)]
        if request.member is None or not self._is_inline(request):
            return False
        texts = [
            request.member.profile,
            *(item.fields for item in request.member.history),
            *(item.fields for item in inline),
        ]
        characters = sum(sum(map(len, fields.values())) for fields in texts)
        return len(texts) <= _INLINE_RECORDS and characters <= INLINE_CHARACTERS

    def _read(self, request: RankRequest, task: TaskSpec) -> _Records:
        compiler = self.version.compiler
        profile: dict[str, object]
        if request.member is not None:
            profile = dict(request.member.profile)
            history = sorted((item.past() for item in request.member.history), key=lambda past: past.timestamp)
            for past in history:  # those that the task does not show too, where a typo would go unnoticed
                compiler.require_turn(past)
        else:
            assert request.member_id is not None
            profile, history = self._require_context().member(request.member_id)
        candidates = self._candidates(task, request.candidates)
        return _Records(
            profile=profile,
            history=history,
            candidates=candidates,
            characters=count_characters(compiler, task, profile, history, [entity for _, entity in candidates]),
        )

    def _candidates(self, task: TaskSpec, candidates: list[str | InlineCandidate]) -> list[tuple[str, Entity]]:
        ids = [candidate for candidate in candidates if isinstance(candidate, str)]
        known = self._require_context().entities(ids) if ids else {}
        entity_type = self.version.suite.surface(task.surface).entity_type
        return [
            (candidate, known[candidate])
            if isinstance(candidate, str)
            else (candidate.id, Entity.of_values(entity_type, candidate.fields))
            for candidate in candidates
        ]

    def _require_context(self) -> Context:
        if self.context is None:
            raise UserError("this service knows no members or entities by id; send member and candidates inline.")
        return self.context


def _expired(milliseconds: int | None) -> Expired:
    return Expired(
        f"the deadline of {milliseconds} ms, which counts from the request's arrival, passed before any candidate was "
        f"scored; try again with a longer deadline_ms, or with a shorter history or candidates."
    )

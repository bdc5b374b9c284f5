"""Answers ranking requests with one loaded model version, without HTTP and without Ray."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from brew_data.prompts.compiler import Entity, PastInteraction
from brew_data.prompts.suite import TaskSpec
from brew_platform.errors import BrewError, UserError
from brew_serve.context.base import Context
from brew_serve.engines.base import Engine
from brew_serve.engines.logprobs import InvalidOutput, require_logprobs
from brew_serve.errors import BrokenVersion, Expired
from brew_serve.metrics import Meters
from brew_serve.ranking.admission import AdmissionConfig, AdmissionController
from brew_serve.ranking.response import ranking_fields
from brew_serve.ranking.scoring import Ranking, Scorer
from brew_serve.schemas.rank import InlineCandidate, RankRequest, RankResponse
from brew_serve.version import LoadedVersion

__all__ = ["Costed", "RankingService"]

T = TypeVar("T")

_LOG = logging.getLogger("brew_serve")


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
        clock: Seconds; arrival times and deadlines are on it.
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
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.number, self.version, self.engine, self.context = number, version, engine, context
        self.name, self.clock = name, clock
        self.meters = Meters(lambda: engine.usage)
        self.admission = AdmissionController(admission or AdmissionConfig(), self.meters, clock)
        self.closing = False
        self.fault = ""  # why no request should be sent here; empty if there is no reason
        self._scorer = Scorer(engine, version.compiler)

    async def rank(self, request: RankRequest, arrival: float | None = None) -> Costed[RankResponse]:
        """Rank the candidates of the request; at its deadline, rank those that are scored by then.

        Args:
            arrival: Seconds on the clock when the request arrived; None for now.

        Raises:
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
        self._require_time(request.deadline_ms, deadline)
        with self.measure("prepare"):
            task = self.version.suite.task(request.task)
            profile, history = self._member(request)
            candidates = [self._candidate(task, candidate) for candidate in request.candidates]
            prompts = self._scorer.compile_prompts(task, profile, history, candidates, own_words=request.instruction)
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
                **ranking_fields(ranking, request.top_k),
            )
            return Costed(response=response, tokens=prompts.work)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Record the duration of the block as a stage of a request."""
        start = self.clock()
        try:
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
        """Close the engine, its processes and the context."""
        self.closing = True
        self.engine.close()
        if self.context is not None:
            self.context.close()

    def _require_time(self, milliseconds: int | None, deadline: float | None) -> float | None:
        """Return the seconds left until the deadline; None without a deadline."""
        if deadline is None:
            return None
        left = deadline - self.clock()
        if left <= 0:
            raise Expired(
                f"the deadline of {milliseconds} ms, which counts from the request's arrival, passed before any "
                f"candidate was scored; try again with a longer deadline_ms, or with a shorter history or candidates."
            )
        return left

    def _count(self, task: TaskSpec, ranking: Ranking) -> None:
        version = str(self.number)
        self.meters.items.labels(task.name, version).inc(len(ranking.candidates))
        self.meters.unscored.labels(task.name).inc(len(ranking.unscored))
        histogram = self.meters.score.labels(task.name, version)
        for candidate in ranking.candidates:
            histogram.observe(candidate.score)

    def _member(self, request: RankRequest) -> tuple[dict, list[PastInteraction]]:
        if request.member is not None:
            history = sorted((item.past() for item in request.member.history), key=lambda past: past.timestamp)
            for past in history:  # validates surfaces that the task does not show too, where a typo would go unnoticed
                self.version.compiler.turn(request.member.profile, past)
            return dict(request.member.profile), history
        assert request.member_id is not None
        return self._require_context().member(request.member_id)

    def _candidate(self, task: TaskSpec, candidate: str | InlineCandidate) -> tuple[str, Entity]:
        if isinstance(candidate, str):
            return candidate, self._require_context().entity(candidate)
        return candidate.id, Entity(
            entity_type=self.version.suite.surface(task.surface).entity_type, fields=candidate.fields
        )

    def _require_context(self) -> Context:
        if self.context is None:
            raise UserError("this service knows no members or entities by id; send member and candidates inline.")
        return self.context

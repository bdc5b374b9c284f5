"""Answers ranking requests with one loaded version: what the HTTP routes call, without HTTP and without Ray."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from brew_data.prompts.compiler import Entity, Past
from brew_data.prompts.suite import TaskSpec
from brew_platform.errors import BrewError, UserError
from brew_serve.context.base import Context
from brew_serve.engines.base import Engine
from brew_serve.http.refusals import Expired
from brew_serve.http.request_context import Call, Trace
from brew_serve.http.service_status import FleetStatus, VersionStatus
from brew_serve.metrics import Meters
from brew_serve.ranking.admission import AdmissionConfig
from brew_serve.ranking.gate import Gate
from brew_serve.ranking.scoring import Ranking, Scorer
from brew_serve.schemas.rank import InlineCandidate, RankedItem, RankRequest, RankResponse, Truncated, Usage
from brew_serve.version import LoadedVersion

__all__ = ["RankService"]


class RankService:
    """One version and its engine.

    Args:
        number: the version's number in the registry.
        version: its folder, loaded.
        engine: runs its model; closed by `close`.
        context: members and entities by id; None where every request must carry them.
        name: of the model in the registry; clients of the OpenAI protocol ask for it.
        admission: how much work is taken in.
        clock: seconds; `Call.arrival` and deadlines are on it.
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
        self.gate = Gate(admission or AdmissionConfig(), self.meters, clock)
        self.closing = False
        self._scorer = Scorer(engine, version.compiler)

    async def rank(self, request: RankRequest, call: Call | None = None) -> RankResponse:
        """Ranks the request's candidates; at its deadline, those that are scored by then.

        Args:
            call: how the request arrived; None for now, and from this machine.

        Raises:
            UnknownId: a member or candidate id that the context does not hold.
            Expired: the deadline passed before any work was begun.
            Overloaded, QuotaExceeded: not now.
            UserError: an unknown task, surface or action, a candidate of another type, or ids where no context is.
        """
        start = self.clock()
        call = call or Call(arrival=start, trace=Trace.of("", ""))
        self.meters.stage_seconds.labels("receive").observe(start - call.arrival)
        deadline = None if request.deadline_ms is None else call.arrival + request.deadline_ms / 1000
        self._require_time(request.deadline_ms, deadline)
        with self.stage("prepare"):
            task = self.version.suite.task(request.task)
            profile, history = self._member(request)
            candidates = [self._candidate(task, candidate) for candidate in request.candidates]
            prompts = self._scorer.prompts(task, profile, history, candidates, own_words=request.instruction)
        seconds = self._require_time(request.deadline_ms, deadline)
        with self.gate.admitted(prompts.work, call, deadline) as ticket, self.stage("score"):
            ranking = await self._scorer.rank_prompts(prompts, seconds=seconds, on_scored=ticket.done)
        with self.stage("answer"):
            self._count(task, ranking)
            return self._answer(task, ranking, request, start)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures the time that its block takes."""
        start = self.clock()
        try:
            yield
        finally:
            self.meters.stage_seconds.labels(name).observe(self.clock() - start)

    def health(self) -> int:
        """As `Front.health`."""
        self.engine.check()
        return self.number

    def ready(self) -> int:
        """As `Front.ready`."""
        if self.closing:
            raise BrewError("the service is shutting down; send requests to another replica.")
        return self.health()

    async def metrics(self) -> bytes:
        """As `Front.metrics`."""
        return self.meters.text()

    async def status(self) -> FleetStatus:
        """As `Front.status`: one version, which never changes."""
        one = VersionStatus(version=self.number, role="production", share=1.0, replicas=1, state="up")
        return FleetStatus(model=self.name, alias=str(self.number), versions=[one])

    def close(self) -> None:
        """Ends the engine and its processes."""
        self.closing = True
        self.engine.close()
        if self.context is not None:
            self.context.close()

    def _require_time(self, milliseconds: int | None, deadline: float | None) -> float | None:
        """Seconds left until the deadline; None where there is none."""
        if deadline is None:
            return None
        left = deadline - self.clock()
        if left <= 0:
            raise Expired(
                f"the deadline of {milliseconds} ms, which counts from the request's arrival, passed before any "
                f"candidate was scored; ask again with a longer deadline_ms, or with less to read."
            )
        return left

    def _count(self, task: TaskSpec, ranking: Ranking) -> None:
        version = str(self.number)
        self.meters.items.labels(task.name, version).inc(len(ranking.candidates))
        self.meters.unscored.labels(task.name).inc(len(ranking.unscored))
        histogram = self.meters.score.labels(task.name, version)
        for candidate in ranking.candidates:
            histogram.observe(candidate.score)

    def _answer(self, task: TaskSpec, ranking: Ranking, request: RankRequest, start: float) -> RankResponse:
        return RankResponse(
            version=self.number,
            task=task.name,
            ranking=[
                RankedItem(id=one.id, score=one.score, probabilities=one.probabilities)
                for one in ranking.candidates[: request.top_k]
            ],
            partial=bool(ranking.unscored),
            unscored=ranking.unscored,
            usage=Usage(prompt_tokens=ranking.prompt_tokens, candidates=len(ranking.candidates)),
            truncated=Truncated(
                turns_dropped=ranking.prefix.turns_dropped,
                head_tokens_dropped=ranking.prefix.tokens_dropped,
                candidates=ranking.tokens_dropped,
            ),
            milliseconds=(self.clock() - start) * 1000,
        )

    def _member(self, request: RankRequest) -> tuple[dict, list[Past]]:
        if request.member is not None:
            history = sorted((item.past() for item in request.member.history), key=lambda past: past.timestamp)
            for past in history:  # a surface that the task does not show would hide a misspelling
                self.version.compiler.turn(request.member.profile, past)
            return dict(request.member.profile), history
        assert request.member_id is not None
        return self._known().member(request.member_id)

    def _candidate(self, task: TaskSpec, candidate: str | InlineCandidate) -> tuple[str, Entity]:
        if isinstance(candidate, str):
            return candidate, self._known().entity(candidate)
        return candidate.id, Entity(entity_type=task.entity_type, fields=candidate.fields)

    def _known(self) -> Context:
        if self.context is None:
            raise UserError("this service knows no members or entities by id; send member and candidates inline.")
        return self.context

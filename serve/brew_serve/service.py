"""Answers ranking requests with one loaded version: what the HTTP routes call, without HTTP and without Ray."""

import time
from collections.abc import Callable

from brew_data.compiler import Entity, Past
from brew_data.tasks import TaskSpec
from brew_platform.errors import UserError
from brew_serve.context import MemberContext
from brew_serve.engine import Engine
from brew_serve.protocol import InlineCandidate, RankedItem, RankRequest, RankResponse, Truncated, Usage
from brew_serve.scoring import Scorer
from brew_serve.version import LoadedVersion

__all__ = ["RankService"]


class RankService:
    """One version and its engine.

    Args:
        number: the version's number in the registry.
        version: its folder, loaded.
        engine: runs its model; closed by `close`.
        context: members and entities by id; None where every request must carry them.
        clock: seconds, for the time that a request took.
    """

    def __init__(
        self,
        number: int,
        version: LoadedVersion,
        engine: Engine,
        context: MemberContext | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.number, self.version, self.engine, self.context = number, version, engine, context
        self._scorer = Scorer(engine, version.compiler)
        self._clock = clock

    async def rank(self, request: RankRequest) -> RankResponse:
        """Ranks the request's candidates.

        Raises:
            UnknownId: a member or candidate id that the context does not hold.
            UserError: an unknown task, surface or action, a candidate of another type, or ids where no context is.
        """
        start = self._clock()
        task = self.version.suite.task(request.task)
        profile, history = self._member(request)
        candidates = [self._candidate(task, candidate) for candidate in request.candidates]
        ranking = await self._scorer.rank(task, profile, history, candidates, own_words=request.instruction)
        return RankResponse(
            version=self.number,
            task=task.name,
            ranking=[
                RankedItem(id=one.id, score=one.score, probabilities=one.probabilities)
                for one in ranking.candidates[: request.top_k]
            ],
            usage=Usage(prompt_tokens=ranking.prompt_tokens, candidates=len(candidates)),
            truncated=Truncated(
                turns_dropped=ranking.prefix.turns_dropped,
                head_tokens_dropped=ranking.prefix.tokens_dropped,
                candidates=ranking.tokens_dropped,
            ),
            milliseconds=(self._clock() - start) * 1000,
        )

    def close(self) -> None:
        """Ends the engine and its processes."""
        self.engine.close()
        if self.context is not None:
            self.context.close()

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

    def _known(self) -> MemberContext:
        if self.context is None:
            raise UserError("this service knows no members or entities by id; send member and candidates inline.")
        return self.context

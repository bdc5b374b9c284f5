"""`POST /v1/rank` as pydantic models: what a request may hold, with its limits, and what the answer says.

An unknown key is an error, so that a misspelt one is never ignored.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from brew_data.compiler import Entity, Past

__all__ = ["InlineCandidate", "Member", "RankRequest", "RankResponse", "RankedItem", "Truncated", "Usage"]

MAX_CANDIDATES = 1_000
MAX_HISTORY = 5_000

Name = Annotated[str, Field(min_length=1, max_length=100)]
Id = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=2_000)]
Fields = Annotated[dict[Name, Text], Field(max_length=100)]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Interaction(_Closed):
    """One past interaction of an inline member."""

    entity_type: Name
    fields: Fields
    surface: Name
    action: Name
    timestamp: AwareDatetime = Field(description="ISO 8601 with its zone, such as 2026-01-31T12:00:00Z")

    def past(self) -> Past:
        """As the prompt compiler reads it."""
        return Past(
            entity=Entity(entity_type=self.entity_type, fields=self.fields),
            surface=self.surface,
            action=self.action,
            timestamp=(self.timestamp - _EPOCH) // timedelta(microseconds=1),
        )


class Member(_Closed):
    """A member whom the service need not know."""

    profile: Fields = Field(default_factory=dict)
    history: list[Interaction] = Field(default_factory=list, max_length=MAX_HISTORY, description="in any order")


class InlineCandidate(_Closed):
    """A candidate whom the service need not know; its type is the one that the task ranks."""

    id: Id
    fields: Fields


def _candidate_kind(value: Any) -> Literal["id", "inline"]:
    return "id" if isinstance(value, str) else "inline"


Candidate = Annotated[
    Annotated[Id, Tag("id")] | Annotated[InlineCandidate, Tag("inline")], Discriminator(_candidate_kind)
]


class RankRequest(_Closed):
    """Rank candidates for one member on one task."""

    task: Name
    member: Member | None = Field(default=None, description="the member inline; or give member_id")
    member_id: Id | None = Field(default=None, description="a member whom the service knows; or give member")
    candidates: list[Candidate] = Field(
        min_length=1, max_length=MAX_CANDIDATES, description="inline as {id, fields}, or ids that the service knows"
    )
    instruction: Text = Field(default="", description="what the member wants, in their own words")
    top_k: int | None = Field(default=None, ge=1, description="answer with the best this many only")

    @model_validator(mode="after")
    def _check(self) -> "RankRequest":
        if (self.member is None) == (self.member_id is None):
            given = "neither" if self.member is None else "both"
            raise ValueError(f"{given} of member and member_id given; give exactly one of them")
        seen: set[str] = set()
        for candidate in self.candidates:
            id_ = candidate if isinstance(candidate, str) else candidate.id
            if id_ in seen:
                raise ValueError(f"candidate id {id_!r} is given twice; give every candidate once")
            seen.add(id_)
        return self


class RankedItem(BaseModel):
    """One candidate of the answer."""

    id: str
    score: float = Field(description="P(any positive action of the task), 0 to 1")
    probabilities: dict[str, float] = Field(description="P(action) by action; they sum to 1")


class Usage(BaseModel):
    """What the request cost."""

    prompt_tokens: int = Field(description="tokens of the shared prefix, once, and of every candidate")
    candidates: int = Field(description="candidates that were scored")


class Truncated(BaseModel):
    """What the model was not shown, for want of room."""

    turns_dropped: int = Field(description="past interactions left out, the oldest first")
    head_tokens_dropped: int = Field(description="tokens cut from instruction and profile")
    candidates: dict[str, int] = Field(description="tokens cut from a candidate's text, by its id")


class RankResponse(BaseModel):
    """Candidates, best first."""

    version: int = Field(description="the model version that answered")
    task: str
    ranking: list[RankedItem]
    usage: Usage
    truncated: Truncated
    milliseconds: float = Field(description="spent in the service, from the parsed request to the answer")

"""Request and response of `POST /v1/rank`, with their limits.

An unknown key is an error, so that a misspelt key is never ignored. A value of another type, such as "5" for 5, is too.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from brew_data.prompts.compiler import Entity, PastInteraction
from brew_data.prompts.fields import field_values
from brew_platform.errors import UserError

__all__ = ["Closed", "InlineCandidate", "Member", "RankRequest", "RankResponse", "RankedItem", "Truncated", "Usage"]

MAX_CANDIDATES = 1_000
MAX_HISTORY = 5_000
MAX_DEADLINE_MS = 600_000

Name = Annotated[str, Field(min_length=1, max_length=100)]
Id = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=2_000)]
FieldValue = Text | float | bool | Annotated[list[Text | float | bool | None], Field(max_length=2_000)] | None


def _present(fields: Any) -> Any:
    """Convert the fields as the tables' are; absent ones are left out."""
    if not isinstance(fields, dict):
        return fields  # pydantic refuses it
    try:
        return field_values(fields)
    except UserError as error:
        raise PydanticCustomError("field_value", "{reason}", {"reason": str(error).removesuffix(".")}) from error


# JSON values of the kinds that a table can have; after validation, the text of each field that is present.
Fields = Annotated[
    dict[Name, Text],
    Field(max_length=100),
    BeforeValidator(_present, json_schema_input_type=dict[Name, FieldValue]),
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _text_only(value: Any) -> Any:
    if not isinstance(value, str):  # pydantic would take a number for seconds since 1970
        raise ValueError("a timestamp is text such as 2026-01-31T12:00:00Z")
    return value


Timestamp = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_text_only)]


class Closed(BaseModel):
    """Base of request models: refuses unknown keys and values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Interaction(Closed):
    """One past interaction of an inline member."""

    entity_type: Name
    fields: Fields
    surface: Name
    action: Name
    timestamp: Timestamp = Field(description="ISO 8601 with its zone, such as 2026-01-31T12:00:00Z")

    def past(self) -> PastInteraction:
        """Convert to the form that the prompt compiler reads."""
        return PastInteraction(
            entity=Entity.of_values(self.entity_type, self.fields),
            surface=self.surface,
            action=self.action,
            timestamp=(self.timestamp - _EPOCH) // timedelta(microseconds=1),
        )


RoutingKey = Annotated[
    Id | None,
    Field(
        description="identifies the member to a service that compares versions: requests with the same key get the "
        "same version and replica. Default: member_id; of an inline member, the profile"
    ),
]


Calibrated = Annotated[
    bool,
    Field(
        description="return probabilities that the version's calibration map has corrected; the order of the "
        "candidates does not change. Refused (409) by a version without a map of the task"
    ),
]


class Member(Closed):
    """A member given inline."""

    profile: Fields = Field(default_factory=dict)
    history: list[Interaction] = Field(
        fail_fast=True, default_factory=list, max_length=MAX_HISTORY, description="in any order"
    )


class InlineCandidate(Closed):
    """A candidate given inline; its entity type is the one that the task ranks."""

    id: Id
    fields: Fields


def _candidate_kind(value: Any) -> Literal["id", "inline"]:
    return "id" if isinstance(value, str) else "inline"


Candidate = Annotated[
    Annotated[Id, Tag("id")] | Annotated[InlineCandidate, Tag("inline")], Discriminator(_candidate_kind)
]


_INLINE_EXAMPLE: JsonDict = {
    "task": "job_apply",
    "member": {
        "profile": {"title": "data engineer", "location": "Berlin"},
        "history": [
            {
                "entity_type": "job",
                "fields": {"title": "machine learning engineer", "company": "acme"},
                "surface": "jobs",
                "action": "apply",
                "timestamp": "2026-01-31T12:00:00Z",
            }
        ],
    },
    "candidates": [
        {"id": "a", "fields": {"title": "data scientist", "company": "acme"}},
        {"id": "b", "fields": {"title": "welder", "company": "acme"}},
    ],
    "instruction": "I want to work with data.",
    "deadline_ms": 500,
}
_KNOWN_EXAMPLE: JsonDict = {"task": "job_apply", "member_id": "m17", "candidates": ["j4", "j9"], "top_k": 1}


class RankRequest(Closed):
    """Rank candidates for one member on one task."""

    model_config = ConfigDict(json_schema_extra={"examples": [_INLINE_EXAMPLE, _KNOWN_EXAMPLE]})

    task: Name
    member: Member | None = Field(default=None, description="the member inline; or give member_id")
    member_id: Id | None = Field(default=None, description="a member whom the service knows; or give member")
    candidates: list[Candidate] = Field(
        fail_fast=True,
        min_length=1,
        max_length=MAX_CANDIDATES,
        description="inline as {id, fields}, or ids that the service knows",
    )
    routing_key: RoutingKey = None
    instruction: Text = Field(default="", description="the member's instruction, in their own words")
    top_k: int | None = Field(default=None, ge=1, description="number of candidates to return; null for all")
    calibrated: Calibrated = False
    deadline_ms: int | None = Field(
        default=None,
        ge=1,
        le=MAX_DEADLINE_MS,
        description="time limit from the request's arrival; then candidates scored so far are returned, and the others "
        "are listed as unscored",
    )

    @model_validator(mode="after")
    def _check(self) -> "RankRequest":
        if (self.member is None) == (self.member_id is None):
            count = "neither" if self.member is None else "both"
            raise ValueError(f"{count} of member and member_id given; give exactly one of them")
        seen: set[str] = set()
        for candidate in self.candidates:
            id_ = candidate if isinstance(candidate, str) else candidate.id
            if id_ in seen:
                raise ValueError(f"candidate id {id_!r} is given twice; give every candidate once")
            seen.add(id_)
        return self


Probability = Annotated[float, Field(ge=0, le=1)]  # NaN is refused too; JSON would have null for it


class RankedItem(BaseModel):
    """One candidate of the response."""

    id: str
    score: Probability = Field(description="P(any positive action of the task), 0 to 1")
    probabilities: dict[str, Probability] = Field(description="P(action) by action; they sum to 1")


class Usage(BaseModel):
    """The cost of a request."""

    prompt_tokens: int = Field(description="tokens of the shared prefix, once, and of every candidate")
    candidates: int = Field(description="candidates that were scored")


class Truncated(BaseModel):
    """What was cut from the prompts to fit the context length."""

    turns_dropped: int = Field(
        description="past interactions left out; if histories differ by candidate, the largest number"
    )
    head_tokens_dropped: int = Field(description="tokens cut from instruction and profile")
    history_tokens_dropped: int = Field(default=0, description="tokens cut from entities of past interactions")
    fields_cut: int = Field(default=0, description="fields of profile, history and candidates that were shortened")
    candidates: dict[str, int] = Field(description="tokens cut from a candidate's text, by its id")


class RankResponse(BaseModel):
    """Response with the ranked candidates, the best first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "version": 3,
                    "task": "job_apply",
                    "ranking": [{"id": "a", "score": 0.71, "probabilities": {"apply": 0.71, "skip": 0.29}}],
                    "calibrated": False,
                    "partial": True,
                    "unscored": ["b"],
                    "usage": {"prompt_tokens": 97, "candidates": 1},
                    "truncated": {
                        "turns_dropped": 0,
                        "head_tokens_dropped": 0,
                        "history_tokens_dropped": 0,
                        "fields_cut": 0,
                        "candidates": {},
                    },
                    "milliseconds": 496.2,
                }
            ]
        }
    )

    version: int = Field(description="the model version that answered")
    task: str
    ranking: list[RankedItem]
    calibrated: bool = Field(default=False, description="whether scores and probabilities are calibrated")
    partial: bool = Field(default=False, description="true if the deadline left candidates unscored")
    unscored: list[str] = Field(default_factory=list, description="ids of these, in the order of the request")
    usage: Usage
    truncated: Truncated
    milliseconds: float = Field(description="spent in the service, from the parsed request to the answer")

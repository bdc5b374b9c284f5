"""Requests and responses of the nearline routes, with their limits.

As in `rank`, an unknown key or a value of another type is an error.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from brew_serve.schemas.rank import Candidate, Closed, Fields, Id, Name, RankedItem, Text, Timestamp, Truncated, Usage

__all__ = [
    "EventBatch",
    "EventsAccepted",
    "NearlineRankRequest",
    "NearlineRanking",
    "RankAccepted",
    "SeenEvents",
    "TimedEvent",
    "micros_of",
    "time_of",
]

MAX_EVENTS = 1_000
MAX_CANDIDATES = 1_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros_of(time: datetime) -> int:
    """Microseconds since 1970, UTC."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def time_of(micros: int) -> datetime:
    """The time that `micros_of` made the number of."""
    return _EPOCH + timedelta(microseconds=micros)


class NewEntity(Closed):
    """What an entity is that the service may not know yet; one that it knows is not changed."""

    entity_type: Name
    fields: Fields


class TimedEvent(Closed):
    """One interaction of a member."""

    event_id: Id = Field(description="the caller's; an event that is sent again under its id changes nothing")
    member_id: Id
    entity_id: Id
    surface: Name
    action: Name
    timestamp: Timestamp = Field(description="when it happened: ISO 8601 with its zone")
    entity: NewEntity | None = Field(default=None, description="what entity_id is, where the service may not know it")

    def payload(self) -> dict[str, Any]:
        """What the consumer needs beside the member, as JSON values."""
        return {
            "event_id": self.event_id,
            "entity_id": self.entity_id,
            "surface": self.surface,
            "action": self.action,
            "timestamp": micros_of(self.timestamp),
            "entity": None if self.entity is None else self.entity.model_dump(),
        }


class EventBatch(Closed):
    """Interactions of any members, in any order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {
                            "event_id": "web-7f3a-1",
                            "member_id": "m17",
                            "entity_id": "j4",
                            "surface": "jobs",
                            "action": "apply",
                            "timestamp": "2026-01-31T12:00:00Z",
                        }
                    ]
                }
            ]
        }
    )

    events: list[TimedEvent] = Field(min_length=1, max_length=MAX_EVENTS)

    @model_validator(mode="after")
    def _check(self) -> "EventBatch":
        _require_different("event id", [event.event_id for event in self.events])
        return self


class EventsAccepted(BaseModel):
    """The events are on the disk, and will be applied."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"accepted": 1, "known": 0}]})
    accepted: int = Field(description="new events")
    known: int = Field(description="events that were accepted before under the same id")


class NearlineRankRequest(Closed):
    """Rank candidates for a member soon, and again after each of the member's events, until the next such request."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"task": "job_apply", "member_id": "m17", "candidates": ["j4", "j9"]}]}
    )

    task: Name
    member_id: Id
    candidates: list[Candidate] = Field(
        min_length=1, max_length=MAX_CANDIDATES, description="inline as {id, fields}, or ids that the service knows"
    )
    instruction: Text = Field(default="", description="what the member wants, in their own words")
    top_k: int | None = Field(default=None, ge=1, description="keep the best this many only")
    request_id: Id | None = Field(
        default=None, description="the caller's, so that asking again changes nothing; made up where it is not given"
    )

    @model_validator(mode="after")
    def _check(self) -> "NearlineRankRequest":
        _require_different("candidate id", [one if isinstance(one, str) else one.id for one in self.candidates])
        return self

    def payload(self, request_id: str) -> dict[str, Any]:
        """What the consumer needs beside member and task, as JSON values."""
        return {
            "request_id": request_id,
            "candidates": [one if isinstance(one, str) else one.model_dump() for one in self.candidates],
            "instruction": self.instruction,
            "top_k": self.top_k,
        }


class RankAccepted(BaseModel):
    """The request is on the disk, and will be answered where `result` says."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"request_id": "4f0c", "result": "/v1/nearline/rankings/job_apply/m17"}],
        }
    )
    request_id: str
    result: str = Field(description="path of the ranking")


class SeenEvents(BaseModel):
    """Which nearline events a ranking knows of."""

    count: int = Field(description="all that the member's history held")
    newest: list[str] = Field(description="their ids, by the time they happened, the newest last; at most 100")


class NearlineRanking(BaseModel):
    """The latest ranking of a member on a task."""

    version: int = Field(description="the model version that ranked")
    task: str
    member_id: str
    request_id: str = Field(description="the request whose candidates these are")
    computed_at: datetime
    staleness_seconds: float = Field(
        description="how long the oldest event or request that this ranking does not show has been waiting; 0 where it "
        "shows all that was accepted"
    )
    waiting: int = Field(description="accepted events and requests that it does not show")
    events: SeenEvents
    ranking: list[RankedItem]
    usage: Usage
    truncated: Truncated


def _require_different(what: str, ids: list[str]) -> None:
    seen: set[str] = set()
    for id_ in ids:
        if id_ in seen:
            raise ValueError(f"{what} {id_!r} is given twice; give every one once")
        seen.add(id_)

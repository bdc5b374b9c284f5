"""Requests and responses of the nearline routes, with their limits.

As in `rank`, an unknown key or a value of another type is an error.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from brew_data.privacy.redaction import redact
from brew_serve.schemas.rank import (
    Calibrated,
    Candidate,
    Closed,
    Fields,
    Id,
    Name,
    RankedItem,
    Text,
    Timestamp,
    Truncated,
    Usage,
)

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
    """Convert a time with a zone to microseconds since 1970, UTC."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def time_of(micros: int) -> datetime:
    """Convert microseconds since 1970, UTC, to a time; the inverse of `micros_of`."""
    return _EPOCH + timedelta(microseconds=micros)


class NewEntity(Closed):
    """An entity that the service may not know yet. A known entity does not change."""

    entity_type: Name
    fields: Fields


class TimedEvent(Closed):
    """One interaction of a member."""

    event_id: Id = Field(description="id from the caller; an event with a known id changes nothing")
    member_id: Id
    entity_id: Id
    surface: Name
    action: Name
    timestamp: Timestamp = Field(description="time of the interaction, ISO 8601 with its zone")
    entity: NewEntity | None = Field(default=None, description="the entity; required if the service may not know it")

    def payload(self) -> dict[str, Any]:
        """Return the event without its member, as JSON values for the consumer."""
        return {
            "event_id": self.event_id,
            "entity_id": self.entity_id,
            "surface": self.surface,
            "action": self.action,
            "timestamp": micros_of(self.timestamp),
            "entity": None if self.entity is None else self.entity.model_dump(),
        }


class EventBatch(Closed):
    """Events of any members, in any order."""

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

    events: list[TimedEvent] = Field(fail_fast=True, min_length=1, max_length=MAX_EVENTS)

    @model_validator(mode="after")
    def _check(self) -> "EventBatch":
        _require_unique("event id", [event.event_id for event in self.events])
        return self


class EventsAccepted(BaseModel):
    """The events are durable and will be applied."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"accepted": 1, "known": 0}]})
    accepted: int = Field(description="new events")
    known: int = Field(description="events whose id was accepted before")


class NearlineRankRequest(Closed):
    """Rank candidates for a member soon, and again after each of the member's events, until the next such request."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"task": "job_apply", "member_id": "m17", "candidates": ["j4", "j9"]}]}
    )

    task: Name
    member_id: Id
    candidates: list[Candidate] = Field(
        fail_fast=True,
        min_length=1,
        max_length=MAX_CANDIDATES,
        description="inline as {id, fields}, or ids that the service knows",
    )
    instruction: Text = Field(default="", description="the member's instruction, in their own words")
    top_k: int | None = Field(default=None, ge=1, description="number of candidates to keep; null for all")
    calibrated: Calibrated = False
    request_id: Id | None = Field(
        default=None, description="id from the caller; a repeated id changes nothing; null generates one"
    )

    @model_validator(mode="after")
    def _check(self) -> "NearlineRankRequest":
        ids = [candidate if isinstance(candidate, str) else candidate.id for candidate in self.candidates]
        _require_unique("candidate id", ids)
        return self

    def payload(self, request_id: str) -> dict[str, Any]:
        """Return the request without member and task, as JSON values for the consumer."""
        return {
            "request_id": request_id,
            "candidates": [
                candidate if isinstance(candidate, str) else candidate.model_dump() for candidate in self.candidates
            ],
            "instruction": redact(self.instruction.strip()),  # as in prompts; it is stored
            "top_k": self.top_k,
            "calibrated": self.calibrated,
        }


class RankAccepted(BaseModel):
    """The request is durable. `result` is the address of its ranking."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"request_id": "4f0c", "result": "/v1/nearline/rankings?task=job_apply&member_id=m17"}],
        }
    )
    request_id: str
    result: str = Field(description="path and query of the ranking's address")


class SeenEvents(BaseModel):
    """The nearline events that a ranking includes."""

    count: int = Field(description="number of nearline events in the member's history")
    newest: list[str] = Field(description="ids of the newest events by timestamp, the newest last; at most 100")


class NearlineRanking(BaseModel):
    """The latest ranking of a member on a task."""

    version: int = Field(description="the model version that ranked")
    task: str
    member_id: str
    request_id: str = Field(description="the request that the candidates come from")
    computed_at: datetime
    staleness_seconds: float = Field(
        description="waiting time of the oldest accepted event or request that this ranking does not include; 0 if it "
        "includes all"
    )
    waiting: int = Field(description="accepted events and requests that it does not include")
    events: SeenEvents
    ranking: list[RankedItem]
    calibrated: bool = Field(default=False, description="whether scores and probabilities are calibrated")
    usage: Usage
    truncated: Truncated


def _require_unique(kind: str, ids: list[str]) -> None:
    seen: set[str] = set()
    for id_ in ids:
        if id_ in seen:
            raise ValueError(f"{kind} {id_!r} occurs twice; send every {kind} once")
        seen.add(id_)

"""The calls of the client: one function per route builds the request and names the type of its response."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from brew_platform.errors import UserError
from brew_serve.schemas.nearline import EventsAccepted, NearlineRanking, RankAccepted
from brew_serve.schemas.openai_answers import ModelList
from brew_serve.schemas.rank import RankResponse
from brew_serve.schemas.status import FleetStatus, Health

__all__ = [
    "Call",
    "ResponseT",
    "health",
    "models",
    "nearline_ranking",
    "rank",
    "rank_nearline",
    "ready",
    "send_events",
    "status",
]

ResponseT = TypeVar("ResponseT", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Call(Generic[ResponseT]):
    """One request to a service.

    Args:
        method: HTTP method.
        path: Path of the route.
        response_type: Pydantic model of the response.
        body: JSON body; None for a GET request.
        max_wait_seconds: Seconds after which the response is useless, so that no retry waits longer; None if it stays
            useful.
    """

    method: str
    path: str
    response_type: type[ResponseT]
    body: Any = None
    max_wait_seconds: float | None = None


def rank(
    *,
    task: str,
    candidates: Sequence[str | Mapping[str, Any]],
    member: Mapping[str, Any] | None = None,
    member_id: str | None = None,
    routing_key: str | None = None,
    instruction: str = "",
    top_k: int | None = None,
    deadline_ms: int | None = None,
    calibrated: bool = False,
) -> Call[RankResponse]:
    """Rank candidates for one member.

    Args:
        task: Name of the task in the served version.
        candidates: Ids that the service knows, or {"id", "fields"}.
        member: {"profile", "history"}; or pass `member_id`.
        member_id: Id of a member whom the service knows.
        routing_key: Identifies the member where versions are compared; requests with the same key get the same version
            and replica. None: `member_id`, or the profile in `member`. Pass it for members without `member_id`.
        instruction: The member's instruction, in their own words.
        top_k: Number of candidates to return, the best first; None for all.
        deadline_ms: Milliseconds from the request's arrival. Then the response contains the candidates scored so far,
            and lists the others as unscored.
        calibrated: Return probabilities that the version's calibration map has corrected. A version without a map of
            the task refuses the request (`Uncalibrated`).
    """
    body: dict[str, Any] = {"task": task, "candidates": _items("candidates", candidates), "instruction": instruction}
    optional = {
        "member": member,
        "member_id": member_id,
        "routing_key": routing_key,
        "top_k": top_k,
        "deadline_ms": deadline_ms,
        "calibrated": calibrated or None,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    return Call(
        method="POST",
        path="/v1/rank",
        response_type=RankResponse,
        body=body,
        max_wait_seconds=deadline_ms / 1000 if isinstance(deadline_ms, int | float) else None,
    )


def health() -> Call[Health]:
    """Check that the service is alive. Raises an error if it must be restarted."""
    return Call(method="GET", path="/health", response_type=Health)


def ready() -> Call[Health]:
    """Check that the service can answer requests now. Raises an error if it cannot."""
    return Call(method="GET", path="/ready", response_type=Health)


def models() -> Call[ModelList]:
    """List the model names that clients of OpenAI's protocol can use."""
    return Call(method="GET", path="/v1/models", response_type=ModelList)


def status() -> Call[FleetStatus]:
    """List the model versions that serve, with their roles and numbers of replicas."""
    return Call(method="GET", path="/v1/status", response_type=FleetStatus)


def send_events(events: Sequence[Mapping[str, Any]]) -> Call[EventsAccepted]:
    """Send events, which report actions of members.

    The events are durable when this returns. An event that is sent again changes nothing.

    Args:
        events: 1 to 1,000 of {"event_id", "member_id", "entity_id", "surface", "action", "timestamp"}, with "entity" if
            the service may not know the entity.
    """
    return Call(
        method="POST", path="/v1/events", response_type=EventsAccepted, body={"events": _items("events", events)}
    )


def rank_nearline(
    *,
    task: str,
    member_id: str,
    candidates: Sequence[str | Mapping[str, Any]],
    instruction: str = "",
    top_k: int | None = None,
    request_id: str | None = None,
    calibrated: bool = False,
) -> Call[RankAccepted]:
    """Request a ranking that is computed soon, and again after each of the member's events.

    `nearline_ranking` returns it.

    Args:
        task: Name of the task in the served version.
        member_id: Id of a member whom the service knows.
        candidates: Ids that the service knows, or {"id", "fields"}.
        instruction: The member's instruction, in their own words.
        top_k: Number of candidates to keep, the best first; None for all.
        request_id: Id of the request. A request with the same id changes nothing. None generates an id.
        calibrated: Keep calibrated probabilities, as in `rank`.
    """
    body: dict[str, Any] = {"task": task, "member_id": member_id, "candidates": _items("candidates", candidates)}
    body |= {"instruction": instruction, "request_id": request_id or uuid.uuid4().hex}
    body |= {} if top_k is None else {"top_k": top_k}
    body |= {"calibrated": True} if calibrated else {}
    return Call(method="POST", path="/v1/nearline/rank", response_type=RankAccepted, body=body)


def nearline_ranking(task: str, member_id: str) -> Call[NearlineRanking]:
    """Return the latest nearline ranking of a member, and its staleness.

    Args:
        task: Name of the task.
        member_id: Id of the member.
    """
    query = f"task={_encoded('task', task)}&member_id={_encoded('member_id', member_id)}"
    path = f"/v1/nearline/rankings?{query}"
    return Call(method="GET", path=path, response_type=NearlineRanking)


def _items(name: str, values: Iterable[Any]) -> list[Any]:
    """Return the items of a list argument. A text or a mapping is one item, not a list of its characters or keys."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise UserError(f"{name} is a {type(values).__name__}; pass a list.")
    return list(values)


def _encoded(name: str, value: str) -> str:
    """Return a value of the query of an address."""
    if not isinstance(value, str) or not value:
        raise UserError(f"{name} is {value!r}; pass text that is not empty.")
    try:
        return quote(value, safe="")
    except UnicodeEncodeError as error:
        raise UserError(f"{name} contains half of a surrogate pair, which is not text.") from error

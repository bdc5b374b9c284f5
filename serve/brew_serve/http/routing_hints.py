"""What a gateway reads in a body: the member, who decides the version and the replica, and the deadline."""

import json
from concurrent.futures import Executor
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from brew_data.prompts.fields import field_values
from brew_platform.errors import UserError
from brew_serve.http.strict_json import has_few_values, run_by_size
from brew_serve.schemas.rank import MAX_DEADLINE_MS

__all__ = ["RoutingHints", "is_in_share", "read_routing_hints", "read_routing_hints_in_thread"]


@dataclass(frozen=True, kw_only=True)
class RoutingHints:
    """The parts of a body that a gateway needs to route the request.

    Args:
        key: Equal for all requests of one member, whatever the member has done meanwhile; empty if the body identifies
            no member.
        deadline_ms: From the request's arrival; None without a deadline.
    """

    key: str = ""
    deadline_ms: int | None = None


def read_routing_hints(body: bytes) -> RoutingHints:
    """Read the hints from a body; a body that is not a JSON object has none, and the replica reports the error.

    The key is a hash of the first of these that the body has:

    1. `routing_key`, `member_id`, or `user` of OpenAI's routes: the same text gives the same key.
    2. The profile of an inline member. It does not change with new events; members with equal profiles share a key.
    3. The text that requests about one subject begin with, for the prefix cache: `query`, the messages of a chat up to
       the first of a user, or `prompt`.
    """
    if not has_few_values(body):
        return RoutingHints()
    try:
        request = json.loads(body)
        identity = _identity(request)
        text = "" if identity is None else json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return RoutingHints(key=_hash(text).hex() if text else "", deadline_ms=_valid_ms(request.get("deadline_ms")))
    except (ValueError, TypeError, AttributeError, RecursionError, UserError):
        return RoutingHints()


async def read_routing_hints_in_thread(body: bytes, threads: Executor) -> RoutingHints:
    """Same as `read_routing_hints`, in a thread if the body is large.

    Args:
        threads: As in `strict_json.parse_body_in_thread`.
    """
    return await run_by_size(body, threads, read_routing_hints, body)


def _identity(request: dict[str, Any]) -> tuple[str, Any] | None:
    """Return what identifies the member or the subject of a request; None if nothing does."""
    for name in ("routing_key", "member_id", "user"):
        if request.get(name):
            return "member_id", request[name]
    if request.get("member"):
        profile = field_values(request["member"].get("profile") or {})  # a null field and an absent one are the same
        return ("member", profile) if profile else None
    if messages := request.get("messages"):
        first = next((i for i, message in enumerate(messages) if message.get("role") == "user"), 0)
        return "messages", messages[: first + 1]
    return next(((name, request[name]) for name in ("query", "prompt") if request.get(name)), None)


def is_in_share(key: str, role: str, share: float) -> bool:
    """Return whether the member is in the `share` (0 to 1) of `role`; a larger share includes a smaller one."""
    return bool(key) and int.from_bytes(_hash(f"{role}\0{key}")) < share * 2**64


def _valid_ms(value: Any) -> int | None:
    return value if type(value) is int and 0 < value <= MAX_DEADLINE_MS else None


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()

"""Who a request is about and until when, and which requests go to a canary or a shadow: the same members each time.

Owns: what a gateway reads of a body (`Wanted`), and `falls_in`; both are pure. Does not own: which versions there are
(`follower`), or whether the request is right (the ranker that answers it).
"""

import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from brew_serve.schemas.rank import MAX_DEADLINE_MS

__all__ = ["Wanted", "falls_in", "wanted"]

# What requests to our routes hold about whom or what they ask; the first one that is there counts.
_NAMES = ("member_id", "member", "query", "messages", "prompt")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a gateway must know of a request.

    Args:
        key: a short text that is the same for all requests of one member: a hash of their id, or else of the canonical
            JSON of the member who is given inline; empty where the body tells of none.
        deadline_ms: from the request's arrival; None where it has none.
    """

    key: str = ""
    deadline_ms: int | None = None


def wanted(body: bytes) -> Wanted:
    """What the body tells; nothing where it is no JSON object, as whoever answers the request says what is wrong."""
    try:
        request = json.loads(body)
        found = next(((name, request[name]) for name in _NAMES if request.get(name) is not None), None)
        text = "" if found is None else json.dumps(found, sort_keys=True, separators=(",", ":"))
        return Wanted(key=_hash(text).hex() if text else "", deadline_ms=_deadline(request.get("deadline_ms")))
    except (ValueError, AttributeError, RecursionError):
        return Wanted()


def falls_in(key: str, role: str, share: float) -> bool:
    """Whether the member is among the `share` (0 to 1) that `role` gets; a larger share keeps those of a smaller."""
    return bool(key) and int.from_bytes(_hash(f"{role}\0{key}")) < share * 2**64


def _deadline(given: Any) -> int | None:
    return given if type(given) is int and 0 < given <= MAX_DEADLINE_MS else None


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()

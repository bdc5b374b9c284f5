"""Who a request is about, and which requests go to a canary or a shadow: the same members each time.

Owns: `member_key` and `falls_in`, pure functions. Does not own: which versions there are (`follower`).
"""

import json
from hashlib import blake2b

__all__ = ["falls_in", "member_key"]

# What requests to our routes hold about whom or what they ask; the first one that is there counts.
_NAMES = ("member_id", "member", "query", "messages", "prompt")


def member_key(body: bytes) -> str:
    """A short text that is the same for all requests of one member; empty where the body tells of none.

    It is a hash of the member's id, or else of the canonical JSON of the member who is given inline.
    """
    try:
        request = json.loads(body)
        found = next(((name, request[name]) for name in _NAMES if request.get(name) is not None), None)
        text = "" if found is None else json.dumps(found, sort_keys=True, separators=(",", ":"))
    except (ValueError, AttributeError, RecursionError):  # whoever answers the request says what is wrong with it
        return ""
    return _hash(text).hex() if text else ""


def falls_in(key: str, role: str, share: float) -> bool:
    """Whether the member is among the `share` (0 to 1) that `role` gets; a larger share keeps those of a smaller."""
    return bool(key) and int.from_bytes(_hash(f"{role}\0{key}")) < share * 2**64


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()

"""Which replica a member's request goes to: the one that has their prefix in its cache, unless it is clearly busier.

Rendezvous hashing with bounded loads: every member has an order of all replicas, a pure function of the two names, so
that all gateways agree and a replica that comes or goes moves only its own members. A request goes to the first of
that order which has room: fewer requests than 1.25 times the mean, and always room for four, since differences of a
few requests say nothing. Whoever is turned away from a busy replica thus finds their prefix at the same second one.

Owns: that order. Does not own: how many requests a replica has (`member_router`).
Source: Thaler and Ravishankar 1998 (highest random weight); Mirrokni et al., arXiv 1608.01350 (bounded loads).
"""

from collections.abc import Mapping
from hashlib import blake2b

__all__ = ["in_order"]

_FACTOR = 1.25  # of the mean load, that the preferred replica may have
_LEAST = 4  # requests that a replica always has room for


def in_order(key: str, loads: Mapping[str, int]) -> list[str]:
    """The replicas, the one to ask first; those that are clearly busier than the others come last.

    Args:
        key: of the member; empty for a request of nobody, which goes to the least loaded replica.
        loads: requests in each replica, by its name.
    """
    if not key:
        return sorted(loads, key=lambda name: loads[name])
    room = max(_LEAST, _FACTOR * (sum(loads.values()) + 1) / max(1, len(loads)))
    own = sorted(loads, key=lambda name: _weight(key, name), reverse=True)
    return sorted(own, key=lambda name: loads[name] >= room)  # stable: the member's order within either half


def _weight(key: str, name: str) -> bytes:
    return blake2b(f"{key}\0{name}".encode(), digest_size=8).digest()

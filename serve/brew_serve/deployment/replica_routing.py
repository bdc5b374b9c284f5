"""Routes a member's requests to the replica that has the member's prefix in its cache, unless it is clearly busier.

Rendezvous hashing with bounded loads: every member has an order of all replicas, a pure function of the two names. All
gateways therefore agree, and a replica that starts or stops moves only its own members. A request goes to the first
replica of that order with capacity: fewer requests than 1.25 times the mean, and at least four, because differences of
a few requests are noise. Requests that overflow a busy replica find the prefix at the same second replica.

Ray's PrefixCacheAffinityRouter does not apply: it reads texts, and our prompts are token ids that only a replica makes.
Source: Thaler and Ravishankar 1998 (highest random weight); Mirrokni et al., arXiv 1608.01350 (bounded loads).
"""

import asyncio
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from brew_serve.errors import Lost

__all__ = ["MemberRouter", "order_replicas"]

_FACTOR = 1.25  # of the mean load that the preferred replica may have
_LEAST = 4  # requests that every replica may have
_RANKS = 3  # replicas that are tried in turn, before any free replica


def order_replicas(key: str, loads: Mapping[str, int]) -> list[str]:
    """Order the replicas for a member, the preferred one first and clearly busier ones last.

    Args:
        key: Of the member; if empty, the order is by load.
        loads: Number of requests in each replica, by its name.
    """
    if not key:
        return sorted(loads, key=lambda name: loads[name])
    capacity = max(_LEAST, _FACTOR * (sum(loads.values()) + 1) / max(1, len(loads)))
    by_weight = sorted(loads, key=lambda name: _weight(key, name), reverse=True)
    return sorted(by_weight, key=lambda name: loads[name] >= capacity)  # stable: keeps the member's order


class MemberRouter(RequestRouter):
    """The request router of the replicas of a version; calls carry the member's key as the keyword `key`."""

    def initialize_state(self, *, wait_seconds: float) -> None:
        """Called by Serve with `request_router_kwargs`.

        Args:
            wait_seconds: Time limit for a replica to accept a request.
        """
        self._wait_seconds = wait_seconds

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Called by Serve until a replica accepts the request: ranks of replicas, the first to be tried first."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # otherwise Serve would retry without a pause
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        loads = {name: self.replica_queue_len_cache.get(replica.replica_id) or 0 for name, replica in by_name.items()}
        order = order_replicas(pending_request.kwargs.get("key", ""), loads)
        return [*([by_name[name]] for name in order[:_RANKS]), candidate_replicas]

    async def _choose_replica_for_request(self, pending_request: PendingRequest, *, is_retry: bool = False) -> Any:
        """Limit the waiting time: Serve waits without a limit if no replica is left, and has no setting for it.

        Raises:
            Lost: No replica accepted the request in time.
        """
        try:
            async with asyncio.timeout(self._wait_seconds):
                return await super()._choose_replica_for_request(pending_request, is_retry=is_retry)
        except TimeoutError as error:
            raise Lost("no replica that could answer is up now; one is being started. Try again.") from error


def _weight(key: str, name: str) -> bytes:
    return blake2b(f"{key}\0{name}".encode(), digest_size=8).digest()

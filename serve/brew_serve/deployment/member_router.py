"""How Ray Serve finds the replica for a request to a ranker: `affinity`, on the queue lengths that Serve knows.

Owns: that, and that a request does not wait long for a replica. Does not own: the order (`affinity`).
Ray's PrefixCacheAffinityRouter is no choice: it reads texts, and our prompts are token ids that only a ranker makes.
"""

import asyncio
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from brew_serve.deployment.replica_routing import in_order
from brew_serve.http.refusals import Lost

__all__ = ["MemberRouter"]

_RANKS = 3  # replicas tried one by one, before whichever is free


class MemberRouter(RequestRouter):
    """The router of a ranker deployment; calls to it name the member as the keyword `key`."""

    def initialize_state(self, *, wait_seconds: float) -> None:
        """Called by Serve with `request_router_kwargs`.

        Args:
            wait_seconds: for a replica that takes a request; after these its caller is told.
        """
        self._wait_seconds = wait_seconds

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Called by Serve until a replica takes the request: ranks of replicas, the first to be tried first."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # before it asks again; otherwise Serve would spin
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        loads = {name: self.replica_queue_len_cache.get(replica.replica_id) or 0 for name, replica in by_name.items()}
        order = in_order(pending_request.kwargs.get("key", ""), loads)
        return [*([by_name[name]] for name in order[:_RANKS]), candidate_replicas]

    async def _choose_replica_for_request(self, pending_request: PendingRequest, *, is_retry: bool = False) -> Any:
        """Serve waits here for ever where no replica is left, and its public interface offers no limit.

        Raises:
            Lost: no replica took the request in time.
        """
        try:
            async with asyncio.timeout(self._wait_seconds):
                return await super()._choose_replica_for_request(pending_request, is_retry=is_retry)
        except TimeoutError as error:
            raise Lost("no replica that could answer is up now; one is being started. Try again.") from error

"""The number of replicas of a version, from the predicted tokens that they have not finished yet.

The number of requests would mislead: a request of a thousand candidates is a hundred times the work of one of ten. The
module does not import Ray.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["METRIC", "OutstandingTokensPolicy", "WaitingWork", "desired_replicas"]

METRIC = "outstanding_tokens"  # as each replica reports it, with its part of what waits in the gateways
_WAITING_SECONDS = 10.0  # after which a replica without requests forgets what waits; it reports as often
_SPARE = 0.7  # of the target: load per remaining replica that must not be exceeded when others are removed


def desired_replicas(outstanding_tokens: float, target_tokens: int, replicas: int) -> int:
    """Return the number of replicas for a load; Serve clamps it to its limits and applies its delays.

    Replicas are removed only if the remaining ones have spare capacity. Otherwise a load near the threshold would start
    and stop replicas repeatedly, and every start loses a prefix cache.

    Args:
        outstanding_tokens: Of all replicas.
        target_tokens: Per replica.
        replicas: The current target.
    """
    more = max(1, math.ceil(outstanding_tokens / target_tokens))
    fewer = max(1, math.ceil(outstanding_tokens / (_SPARE * target_tokens)))
    return more if more >= replicas else min(fewer, replicas)


class WaitingWork:
    """The work that waits in the gateways for one replica, as the latest request said.

    Gateways pass on only as much work as keeps the replicas busy. Without the work that waits, the load of the replicas
    would never exceed the target by much, and no replica would be added.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._tokens, self._since = clock, 0, -math.inf

    def observe(self, tokens: int) -> None:
        """Set the waiting work."""
        self._tokens, self._since = tokens, self._clock()

    @property
    def tokens(self) -> int:
        """The waiting work; 0 if no request has come for a while."""
        return self._tokens if self._clock() - self._since < _WAITING_SECONDS else 0


class OutstandingTokensPolicy:
    """A Serve autoscaling policy. Each replica's report is its mean over the look-back period."""

    def __init__(self, target_tokens: int) -> None:
        self._target = target_tokens

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Called by Serve several times a second."""
        reports: Mapping[Any, float] = (context.aggregated_metrics or {}).get(METRIC, {})
        return desired_replicas(sum(reports.values()), self._target, context.target_num_replicas), {}

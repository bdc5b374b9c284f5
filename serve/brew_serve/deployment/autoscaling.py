"""How many rankers there should be, from the predicted tokens that they have not done yet.

Requests would mislead: one of a thousand candidates is a hundred times the work of one of ten.

Owns: the decision, and the policy object that Ray Serve's controller asks for it. Runs without Ray.
"""

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["METRIC", "OutstandingTokensPolicy", "replicas_wanted"]

METRIC = "outstanding_tokens"  # as each replica reports it
_SPARE = 0.7  # of the target, that the replicas which stay must not exceed when others go


def replicas_wanted(outstanding_tokens: float, target_tokens: int, replicas: int) -> int:
    """Replicas for that many tokens in all; Serve keeps it between its least and most, and applies its delays.

    Fewer than there are only where those would have room to spare: otherwise a load near the border would start and
    end replicas for ever, and every start throws a cache away.

    Args:
        replicas: that are wanted already.
    """
    more = max(1, math.ceil(outstanding_tokens / target_tokens))
    fewer = max(1, math.ceil(outstanding_tokens / (_SPARE * target_tokens)))
    return more if more >= replicas else min(fewer, replicas)


class OutstandingTokensPolicy:
    """A Serve autoscaling policy. Each replica's report is its mean over the look-back period."""

    def __init__(self, target_tokens: int) -> None:
        self._target = target_tokens

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Called by Serve several times a second."""
        reports: Mapping[Any, float] = (context.aggregated_metrics or {}).get(METRIC, {})
        return replicas_wanted(sum(reports.values()), self._target, context.target_num_replicas), {}

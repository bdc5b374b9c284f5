"""Number of nearline consumers: the decision, and the policy object for Ray Serve. Runs without Ray."""

import logging
import math
from pathlib import Path
from typing import Any

from brew_serve.nearline.outbox import Outbox
from brew_serve.stores.sqlite_file import Unavailable

__all__ = ["OutboxDepthPolicy", "consumers_needed"]

_LOG = logging.getLogger("brew_serve")


def consumers_needed(open_jobs: int, jobs_per_consumer: int) -> int:
    """Return the replicas for `open_jobs`; Serve clamps it to its minimum and maximum."""
    return max(1, math.ceil(open_jobs / jobs_per_consumer))


class OutboxDepthPolicy:
    """Serve autoscaling policy: consumers in proportion to the outbox's open jobs.

    For the filesystem broker, whose length Serve's own policy cannot read. The controller must see the outbox's file.
    """

    def __init__(self, outbox_path: str, jobs_per_consumer: int) -> None:
        self._path, self._jobs = Path(outbox_path), jobs_per_consumer

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Called by Serve several times a second."""
        try:
            depth = Outbox.depth(self._path)
        except Unavailable as error:
            _LOG.warning("the number of consumers is unchanged: %s", error)
            return context.target_num_replicas, {}
        return consumers_needed(depth, self._jobs), {}

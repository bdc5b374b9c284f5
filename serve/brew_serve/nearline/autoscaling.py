"""How many nearline consumers there should be.

Owns: the decision, and the policy object that Ray Serve's controller asks for it. Runs without Ray.
"""

import logging
import math
from pathlib import Path
from typing import Any

from brew_serve.nearline.outbox import Outbox
from brew_serve.stores.sqlite_file import Unavailable

__all__ = ["OutboxDepthPolicy", "consumers_wanted"]

_LOG = logging.getLogger("brew_serve")


def consumers_wanted(open_jobs: int, jobs_per_consumer: int) -> int:
    """Replicas for that many open jobs; Serve keeps it between its least and most."""
    return max(1, math.ceil(open_jobs / jobs_per_consumer))


class OutboxDepthPolicy:
    """A Serve autoscaling policy: as many consumers as the outbox's open jobs ask for.

    For the filesystem broker, whose length Serve's own policy cannot read. The controller must see the outbox's file.
    """

    def __init__(self, outbox_path: str, jobs_per_consumer: int) -> None:
        self._path, self._jobs = Path(outbox_path), jobs_per_consumer

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Called by Serve several times a second."""
        try:
            depth = Outbox.depth(self._path)
        except Unavailable as error:
            _LOG.warning("the number of consumers stays: %s", error)
            return context.target_num_replicas, {}
        return consumers_wanted(depth, self._jobs), {}

"""The dashboards: serving, training, nearline, registry, jobs; one module for each.

Names that begin with `brew360:` are recorded by the rules in `rules/`.
"""

from brew_cluster.dashboards.boards.jobs import JOBS
from brew_cluster.dashboards.boards.nearline import NEARLINE
from brew_cluster.dashboards.boards.registry import REGISTRY
from brew_cluster.dashboards.boards.serving import SERVING
from brew_cluster.dashboards.boards.training import TRAINING

__all__ = ["DASHBOARDS"]

DASHBOARDS = (SERVING, TRAINING, NEARLINE, REGISTRY, JOBS)

"""One round among workers: each computes a part, rank 0 decides; an error on one worker is raised on all."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch.distributed as dist

from brew_platform.errors import BrewError
from brew_train.distributed.context import DistributedContext

__all__ = ["agree"]

logger = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")


def agree(context: DistributedContext, mine: Callable[[], T], first: Callable[[list[T]], Sequence[R]]) -> R:
    """One round over `world.side`, so it may run in a background thread; one at a time.

    Args:
        mine: called on every worker; returns something picklable.
        first: called on rank 0 with every worker's part, by rank; returns something picklable for each worker.

    Returns:
        What rank 0 has for this worker.

    Raises:
        BrewError: that of the first worker whose `mine` raised one, or of `first`; on every worker.
        RuntimeError: the same for any other error; or a worker was lost, and then only those that are left meet it.
    """
    part = _attempt(context, mine)
    parts: list[T | Exception] = [part] * context.size
    if context.size > 1:
        dist.gather_object(part, parts if context.rank == 0 else None, dst=0, group=context.side)
    outcomes: list[R | Exception] = []
    if context.rank == 0:
        outcomes += _decide(context, parts, first)
    if context.size > 1:
        box: list[R | Exception | None] = [None]
        dist.scatter_object_list(box, outcomes or None, src=0, group=context.side)
        outcomes = box  # type: ignore[assignment]  # filled by now
    outcome = outcomes[0]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _decide(
    context: DistributedContext, parts: list[T | Exception], first: Callable[[list[T]], Sequence[R]]
) -> Sequence[R | Exception]:
    """Rank 0's outcome for each worker."""
    for part in parts:
        if isinstance(part, Exception):
            return [part] * context.size
    made: Sequence[R] | Exception = _attempt(context, lambda: first([p for p in parts if not isinstance(p, Exception)]))
    return [made] * context.size if isinstance(made, Exception) else made


def _attempt(context: DistributedContext, make: Callable[[], T]) -> T | Exception:
    """What `make` returns, or an error that can be sent to the other workers."""
    try:
        return make()
    except BrewError as error:
        return error
    except Exception as error:
        logger.exception("worker %d failed", context.rank)
        return RuntimeError(f"worker {context.rank} failed: {error!r}")

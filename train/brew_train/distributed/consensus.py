"""A round of consensus: each worker computes a part, rank 0 decides, and an error of any worker is raised on all."""

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
    """Runs one round over `context.side`. It may run in a background thread, but only one round at a time.

    Args:
        context: the workers; every worker calls this function.
        mine: called on every worker; returns this worker's part, which must be picklable.
        first: called on rank 0 with the parts by rank; returns a picklable result for each worker.

    Returns:
        The result of rank 0 for this worker.

    Raises:
        BrewError: raised by `mine` on any worker, or by `first`; the first one, on every worker.
        RuntimeError: `mine` or `first` raised another error, on every worker; or a worker was lost.
    """
    part = _attempt(context, mine)
    parts: list[T | Exception] = [part] * context.size
    if context.size > 1:
        dist.gather_object(part, parts if context.rank == 0 else None, dst=0, group=context.side)
    outcomes: list[R | Exception] = []
    if context.rank == 0:
        outcomes += _decide(context, parts, first)
    if context.size > 1:
        received: list[R | Exception | None] = [None]
        dist.scatter_object_list(received, outcomes or None, src=0, group=context.side)
        outcomes = received  # type: ignore[assignment]  # scatter_object_list has filled it
    outcome = outcomes[0]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _decide(
    context: DistributedContext, parts: list[T | Exception], first: Callable[[list[T]], Sequence[R]]
) -> Sequence[R | Exception]:
    """Returns the outcome of each worker, on rank 0."""
    for part in parts:
        if isinstance(part, Exception):
            return [part] * context.size
    results: Sequence[R] | Exception = _attempt(
        context, lambda: first([part for part in parts if not isinstance(part, Exception)])
    )
    return [results] * context.size if isinstance(results, Exception) else results


def _attempt(context: DistributedContext, function: Callable[[], T]) -> T | Exception:
    """Returns the result of `function`, or its error in a form that can be sent to the other workers."""
    try:
        return function()
    except BrewError as error:
        return error
    except Exception as error:
        logger.exception("worker %d failed", context.rank)
        return RuntimeError(f"worker {context.rank} failed: {error!r}")

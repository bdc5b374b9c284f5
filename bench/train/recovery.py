"""Plans kills, and computes from a run's records how long each recovery took and whether the results changed."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["MEASURED", "PlannedKill", "Recovery", "bitwise_kills", "plan_kills", "recoveries"]

Record = Mapping[str, Any]  # of metrics.jsonl or events.jsonl
MEASURED = (
    "loss",
    "prompt_loss",
    "answer_loss",
    "grad_norm",
    "learning_rate",
    "tokens",
)  # values that are compared bitwise


@dataclass(frozen=True, kw_only=True)
class PlannedKill:
    """A planned SIGKILL of a random worker."""

    kind: str  # step: after a step; checkpoint: while a checkpoint is written; restart: while the workers restart
    step: int  # the kill waits for this step; 0: it follows the previous kill
    delay: float  # seconds after that moment (for kind restart: after the first new worker process)
    worker: int  # index of the worker, modulo the number of workers


def plan_kills(kills: int, *, steps: int, checkpoint_every: int, seed: int) -> list[PlannedKill]:
    """Plan random kills: of each five, three at any moment, one during a checkpoint and one during a restart.

    Args:
        kills: The number of kills.
        steps: The number of steps of the run; the last kill is at least 10 steps before the end.
        checkpoint_every: The number of steps between checkpoints.
        seed: The seed; equal arguments give equal plans.

    Returns:
        The kills, in order.

    Raises:
        ValueError: The run is too short.
    """
    kinds = [("step", "checkpoint", "step", "restart", "step")[number % 5] for number in range(kills)]
    random = np.random.default_rng(seed)
    timed = [kind for kind in kinds if kind != "restart"]
    if steps - 10 < 2 * len(timed):
        raise ValueError(f"{steps} steps are too few for {kills} kills; give at least {2 * len(timed) + 10}")
    places = iter(sorted(random.choice(np.arange(1, steps - 9), size=len(timed), replace=False).tolist()))
    plan = []
    for kind in kinds:
        step = 0 if kind == "restart" else int(next(places))
        if kind == "checkpoint":  # at the next checkpoint
            step = min(-(-step // checkpoint_every) * checkpoint_every, steps - 10)
        longest = {"step": 1.0, "checkpoint": 0.05, "restart": 10.0}[kind]
        delay, worker = float(random.uniform(0, longest)), int(random.integers(1 << 16))
        plan.append(PlannedKill(kind=kind, step=step, delay=delay, worker=worker))
    return plan


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """The time from a kill to the first new step, in seconds."""

    restart: float  # total
    down: float  # until the workers of the new attempt enter our code: Ray detects the loss, starts processes, imports
    own: float  # the rest: restore, repeated steps, and the new step
    build: float  # part of `own` before the first step
    repeated: int  # number of repeated steps


def recoveries(kills: Sequence[float], rows: Sequence[Record], events: Sequence[Record]) -> list[Recovery | None]:
    """Compute the recovery from each kill.

    Args:
        kills: Times of the kills, in Unix seconds, ascending.
        rows: The rows of metrics.jsonl, in order.
        events: The events of events.jsonl, in order.

    Returns:
        One entry per kill; None if the next kill came before the recovery, whose time then counts for the next kill.
    """
    # The event follows the checks of settings and bins, which are part of our code too.
    entered = {
        event["attempt"]: event["time"] - event["checked_seconds"] for event in events if event["kind"] == "attempt"
    }
    ready: dict[str, float] = {}
    for event in events:
        if event["kind"] == "ready":
            ready.setdefault(event["attempt"], event["time"])
    found: list[Recovery | None] = []
    for number, kill in enumerate(kills):
        limit = kills[number + 1] if number + 1 < len(kills) else float("inf")
        # The surviving worker can record a step after the kill; only a later attempt has recovered.
        old = [row["step"] for row in rows if entered[row["attempt"]] <= kill]
        furthest = max(old, default=0)
        later = [row for row in rows if entered[row["attempt"]] > kill]
        new = next((row for row in later if row["step"] > furthest), None)
        if new is None or new["time"] > limit:
            found.append(None)
            continue
        attempt = new["attempt"]
        found.append(
            Recovery(
                restart=new["time"] - kill,
                down=entered[attempt] - kill,
                own=new["time"] - entered[attempt],
                build=ready[attempt] - entered[attempt],
                repeated=sum(row["attempt"] == attempt and row["step"] <= furthest for row in later),
            )
        )
    return found


def bitwise_kills(kills: Sequence[float], cut: Sequence[Record], whole: Sequence[Record]) -> int:
    """Count the kills after which all steps until the next kill are bitwise equal to the uninterrupted run.

    A kill without a step before the next kill counts like the next one.

    Args:
        kills: Times of the kills, in Unix seconds, ascending.
        cut: The rows of the run with kills; a repeated step has several rows.
        whole: The rows of the uninterrupted run.

    Returns:
        The number of kills; 0 if a step is missing.
    """
    expected = {row["step"]: _measured(row) for row in whole}
    if {row["step"] for row in cut} != set(expected):
        return 0
    equal: list[bool | None] = [None] * (len(kills) + 1)  # per interval between kills; None: no step
    for row in cut:
        stretch = bisect.bisect_left(kills, row["time"])
        same = _measured(row) == expected[row["step"]]
        equal[stretch] = same and equal[stretch] is not False
    for stretch in reversed(range(len(kills))):
        if equal[stretch] is None:
            equal[stretch] = equal[stretch + 1]
    return sum(same is True for same in equal[1:])


def _measured(row: Record) -> list[Any]:
    return [row.get(name) for name in MEASURED]

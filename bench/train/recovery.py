"""What a run's records say of its kills: how long each took to get over, and whether anything came out differently."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["MEASURED", "PlannedKill", "Recovery", "bitwise_kills", "plan_kills", "recoveries"]

Record = Mapping[str, Any]  # of metrics.jsonl or events.jsonl
MEASURED = ("loss", "prompt_loss", "answer_loss", "grad_norm", "learning_rate", "tokens")  # equal to the last bit


@dataclass(frozen=True, kw_only=True)
class PlannedKill:
    """One SIGKILL to a random worker."""

    kind: str  # step: some time after a step; checkpoint: while one is written; restart: while the workers start again
    step: int  # it waits until this step was reached; 0: right after the kill before it
    delay: float  # seconds from that moment (of kind restart: from the first new worker process)
    worker: int  # which of the workers, modulo their number


def plan_kills(kills: int, *, steps: int, checkpoint_every: int, seed: int) -> list[PlannedKill]:
    """Random kills over a run: of each five, three at any moment, one in a checkpoint and one in a restart.

    Args:
        steps: of the run; the last kill comes 10 steps before its end at the latest.
        checkpoint_every: steps between checkpoints.
        seed: the same arguments and seed give the same plan.

    Raises:
        ValueError: the run is too short for so many kills.
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
        if kind == "checkpoint":  # the next one due
            step = min(-(-step // checkpoint_every) * checkpoint_every, steps - 10)
        longest = {"step": 1.0, "checkpoint": 0.05, "restart": 10.0}[kind]
        delay, worker = float(random.uniform(0, longest)), int(random.integers(1 << 16))
        plan.append(PlannedKill(kind=kind, step=step, delay=delay, worker=worker))
    return plan


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What one kill cost, in seconds; from the kill to the first step that no attempt had done before."""

    restart: float  # in all
    down: float  # until the workers of the new attempt enter our code: Ray notices, starts processes, imports
    own: float  # from there on: restore, repeated steps, and the new step
    build: float  # part of `own`: until the first step begins
    repeated: int  # steps done again


def recoveries(kills: Sequence[float], rows: Sequence[Record], events: Sequence[Record]) -> list[Recovery | None]:
    """One entry per kill; None where the next kill came before the run had got over it (it then counts for that one).

    Args:
        kills: unix seconds, ascending.
        rows: of metrics.jsonl, in the order of the file.
        events: of events.jsonl, likewise.
    """
    # the event comes after the checks of settings and bins, which are ours as well
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
        # The surviving worker may still record a step after the kill; only an attempt that began later has recovered.
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
    """Kills after which every step, until the next kill, came out as in the uninterrupted run, to the last bit.

    A kill that the next one overtook before any step counts as that one does.

    Args:
        cut: rows of the run that was killed; steps that were repeated have several.
        whole: rows of the uninterrupted run.

    Returns:
        0 where a step is missing in the end: that curve is not the same, whatever its other steps say.
    """
    expected = {row["step"]: _measured(row) for row in whole}
    if {row["step"] for row in cut} != set(expected):
        return 0
    equal: list[bool | None] = [None] * (len(kills) + 1)  # per stretch after so many kills; None: no step in it
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

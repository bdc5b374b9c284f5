"""The job of a contender's process, and the outcome that the process writes."""

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Job", "Stopwatch", "read_job"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A contender's task: train `steps` steps of `bins_per_step` bins."""

    workload: str  # folder of bench.train.workload
    out: str  # folder of the contender's files; its outcome is out/outcome.json
    steps: int
    bins_per_step: int  # of all processes together
    threads: int  # of each process
    options: dict[str, Any] = field(default_factory=dict)  # specific to the contender

    def write(self) -> Path:
        """Write the job as `job.json` and return the path."""
        path = Path(self.out) / "job.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)))
        return path


def read_job() -> Job:
    """Read the job from the file that the command line names."""
    return Job(**json.loads(Path(sys.argv[1]).read_text()))


class Stopwatch:
    """Records the end of each step. All contenders use it."""

    def __init__(self) -> None:
        self.ends: list[float] = []  # seconds on a clock of this process
        self.tokens: list[int] = []  # real tokens of each step, of all processes together
        self.losses: list[float | None] = []

    def step(self, tokens: int, loss: float | None = None) -> None:
        """Record the end of a step."""
        self.ends.append(time.perf_counter())
        self.tokens.append(tokens)
        self.losses.append(loss)

    def write_outcome(self, job: Job, **settings: Any) -> None:
        """Write `outcome.json` with the times, and the settings that were in force."""
        path = Path(job.out) / "outcome.json"
        path.write_text(json.dumps({**vars(self), "settings": settings}))

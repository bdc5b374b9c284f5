"""What a contender's process is told, and what it tells back."""

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
    out: str  # folder for what the contender writes; its answer is out/answer.json
    steps: int
    bins_per_step: int  # of all processes together
    threads: int  # of each process
    options: dict[str, Any] = field(default_factory=dict)  # the contender's own

    def write(self) -> Path:
        """Puts the job where its process finds it."""
        path = Path(self.out) / "job.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self)))
        return path


def read_job() -> Job:
    """The job in the file that the command line names."""
    return Job(**json.loads(Path(sys.argv[1]).read_text()))


class Stopwatch:
    """Notes the end of each step; every contender is timed by this one."""

    def __init__(self) -> None:
        self.ends: list[float] = []  # seconds on a clock of this process
        self.tokens: list[int] = []  # real ones in each step, all processes together
        self.losses: list[float | None] = []

    def step(self, tokens: int, loss: float | None = None) -> None:
        """A step has just ended."""
        self.ends.append(time.perf_counter())
        self.tokens.append(tokens)
        self.losses.append(loss)

    def answer(self, job: Job, **settings: Any) -> None:
        """Writes the answer; `settings` say how the contender was set."""
        path = Path(job.out) / "answer.json"
        path.write_text(json.dumps({**vars(self), "settings": settings}))

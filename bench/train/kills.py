"""The kill test: compares a run on Ray whose workers are killed at random moments with an uninterrupted run.

`bench.train.__main__` starts it as a separate process.
"""

import json
import os
import signal
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
from bench.train.job import Job, read_job
from bench.train.ours import STAGE, config_for
from bench.train.recovery import PlannedKill, bitwise_kills, plan_kills, recoveries
from bench.train.workload import SHAPE, Workload, open_workload

from brew_cluster.ray.local_ray import local_ray
from brew_platform.errors import DataError
from brew_train.checkpoints.ledger import LEDGER, LedgerStep, audit, read_ledger
from brew_train.checkpoints.manifest import MANIFEST, peek_checkpoint
from brew_train.ray_launcher import run_on_ray
from brew_train.telemetry.recorder import METRICS, Tail, read_run

WORKERS = 2
PATIENCE = 180.0  # seconds to wait for the moment of a kill before the test fails


class Killer(threading.Thread):
    """Kills Ray workers of this process as planned.

    Args:
        plan: The kills, in order.
        run: The folder of the run.
    """

    def __init__(self, plan: list[PlannedKill], run: Path) -> None:
        super().__init__(name="killer", daemon=True)
        self.plan, self.run_folder = plan, run
        self.done: list[dict[str, Any]] = []
        self.error: BaseException | None = None
        self.stop = threading.Event()
        self._rows = Tail(run / METRICS)
        self._step = 0  # the highest step so far

    def run(self) -> None:
        """Carry out all kills; the thread calls this method."""
        try:
            for number, kill in enumerate(self.plan, start=1):
                self._wait_for(kill)
                if not self.stop.wait(kill.delay):
                    self._kill(kill, number)
        except Exception as error:  # the main thread raises it
            self.error = error

    def _wait_for(self, kill: PlannedKill) -> None:
        known = {worker.pid for worker in _workers()} | {done["pid"] for done in self.done}

        def moment() -> bool:
            if kill.kind == "restart":
                return any(worker.pid not in known for worker in _workers())
            self._step = max([self._step, *(row["step"] for row in self._rows.read())])
            return self._step >= kill.step and (kill.kind == "step" or self._checkpoint_under_way())

        deadline = time.monotonic() + PATIENCE
        while not moment():
            if self.stop.is_set() or time.monotonic() > deadline:
                raise RuntimeError(f"the moment of {kill} did not occur; the run is at step {self._step}")
            time.sleep(0.002 if kill.kind == "checkpoint" else 0.02)

    def _checkpoint_under_way(self) -> bool:
        folders = (self.run_folder / "checkpoints").glob("step-*")
        return any(not (folder / MANIFEST).exists() for folder in folders if folder.name > self._newest_checkpoint())

    def _newest_checkpoint(self) -> str:
        finished = (self.run_folder / "checkpoints").glob(f"step-*/{MANIFEST}")
        return max((path.parent.name for path in finished), default="")

    def _kill(self, kill: PlannedKill, number: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while not (workers := _workers()):  # between two attempts there are none
            if self.stop.is_set() or time.monotonic() > deadline:
                raise RuntimeError(f"there was no worker for {kill}")
            time.sleep(0.02)
        worker = workers[kill.worker % len(workers)]
        in_checkpoint = self._checkpoint_under_way()
        when = time.time()
        os.kill(worker.pid, signal.SIGKILL)
        self.done.append({"time": when, "pid": worker.pid, "kind": kill.kind, "in_checkpoint": in_checkpoint})
        print(f"  kill {number} of {len(self.plan)} ({kill.kind}) near step {self._step}", flush=True)


def _workers() -> list[psutil.Process]:
    """Return the running training workers of this process's Ray, sorted by process id."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            titles = [process.name(), *process.cmdline()]
            if process.status() != psutil.STATUS_ZOMBIE and any("RayTrainWorker" in title for title in titles):
                found.append(process)
        except psutil.Error:  # it ended meanwhile
            continue
    return sorted(found, key=lambda process: process.pid)


def main() -> None:
    job = read_job()
    workload = open_workload(Path(job.workload))
    folder = Path(job.out)
    plan = plan_kills(
        job.options["kills"],
        steps=job.steps,
        checkpoint_every=job.options["checkpoint_every"],
        seed=job.options["seed"],
    )
    with local_ray(detached=False, logs=folder / "ray-logs"):
        print(f"  the uninterrupted run: {job.steps} steps", flush=True)
        train_on_ray(workload, job, folder / "whole")
        killer = Killer(plan, folder / "cut")
        killer.start()
        try:
            train_on_ray(workload, job, folder / "cut")
        finally:
            killer.stop.set()
            killer.join()
    if killer.error is not None:
        raise killer.error
    (folder / "outcome.json").write_text(json.dumps(summary(workload, job, killer.done)))


def train_on_ray(workload: Workload, job: Job, out: Path) -> None:
    """Train as `brew360 train` does."""
    config = replace(config_for(workload, job, workers=WORKERS), max_failures=10 * job.options["kills"])
    run_on_ray(config, bins={STAGE: workload.bins}, out=out, shape=SHAPE)


def summary(workload: Workload, job: Job, kills: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the records of the two runs."""
    folder = Path(job.out)
    whole, _ = read_run(folder / "whole")
    cut, events = read_run(folder / "cut")
    times = [kill["time"] for kill in kills]
    found = recoveries(times, cut, events)
    files = sorted((folder / "whole" / "export").glob("*.safetensors"))
    export_bitwise = bool(files) and all(
        (folder / "cut" / "export" / file.name).read_bytes() == file.read_bytes() for file in files
    )
    complaint = None
    try:
        for name in ("whole", "cut"):
            audit(folder / name, {STAGE: workload.n_bins})  # each bin once per epoch
        if _ledger(folder / "cut") != _ledger(folder / "whole"):
            complaint = "the bins of some step differ from those of the uninterrupted run"
    except DataError as error:
        complaint = str(error)
    return {
        "kills": [{**kill, "recovery": asdict(r) if r else None} for kill, r in zip(kills, found, strict=True)],
        "steps": len({row["step"] for row in cut}),
        "steps_repeated": len(cut) - len({row["step"] for row in cut}),
        "attempts": sum(event["kind"] == "attempt" for event in events),
        "curve_bitwise_kills": bitwise_kills(times, cut, whole),
        "export_bitwise": export_bitwise,
        "ledger_exact": complaint is None,
        "ledger_complaint": complaint,
        "epochs": job.steps * job.bins_per_step / workload.n_bins,
    }


def _ledger(run: Path) -> list[LedgerStep]:
    checkpoint = peek_checkpoint(run / "checkpoints")
    assert checkpoint is not None, "a finished run ends with a checkpoint"
    return read_ledger(run / LEDGER, checkpoint.ledger)


if __name__ == "__main__":
    main()

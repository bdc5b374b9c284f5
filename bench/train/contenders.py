"""Defines the contenders and their settings, and runs them."""

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.train.job import Job
from bench.train.workload import Workload

__all__ = [
    "CONTENDERS",
    "DEFAULT",
    "OPPONENTS",
    "ROOT",
    "SWEEP",
    "Contender",
    "median_speed",
    "run_contender",
    "run_module",
    "speed",
]

ROOT = Path(__file__).parents[2]
TRL_PACKAGES = Path(sys.prefix) / "bench"  # packages of requirements/bench.txt; only TRL's process imports them


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A contender: its module, processes and settings. All contenders use two cores."""

    title: str
    module: str
    processes: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    trl: bool = False

    @property
    def threads(self) -> int:
        """The number of threads of each process."""
        return 2 // self.processes


def _trl(title: str, *, processes: int = 1, **options: Any) -> Contender:
    options = {"processes": processes, **options}
    return Contender(title=title, module="bench.train.sft_trainer", processes=processes, options=options, trl=True)


CONTENDERS: dict[str, Contender] = {
    "ours": Contender(title="brew360, 2 FSDP2 workers", module="bench.train.ours", processes=2),
    "trl": _trl("TRL SFTTrainer, bfd, 1 process of 2 threads"),
    "trl_two": _trl(
        "TRL SFTTrainer, bfd, 2 DDP processes",
        processes=2,
        ddp_backend="gloo",
        ddp_find_unused_parameters=False,  # the Trainer's default searches the graph in every step
        ddp_broadcast_buffers=False,
    ),
    # TRL's defaults: 8 rows per device, activations computed twice
    "trl_default": _trl("TRL SFTTrainer, bfd, its default settings", rows=8, gradient_checkpointing=True),
    "ddp": Contender(title="brew360's step, 2 DDP workers", module="bench.train.ddp", processes=2),
    "plain": Contender(
        title="plain loop, same bins, block-diagonal mask", module="bench.train.plain", options={"mode": "packed"}
    ),
    "causal": Contender(
        title="plain loop, causal rows (documents leak)", module="bench.train.plain", options={"mode": "causal"}
    ),
    "ours_one": Contender(title="brew360, 1 process of 2 threads", module="bench.train.ours"),
    # TRL's other settings; `--only trl-sweep` runs them all against each other
    "trl_checkpointing": _trl("TRL, its default gradient_checkpointing=True", gradient_checkpointing=True),
    "trl_rows2": _trl("TRL, 2 bins in a row", rows=2),
    "trl_rows8": _trl("TRL, 8 bins in a row", rows=8),
    "trl_eager": _trl("TRL, attention eager", attention="eager"),
    "trl_experts": _trl("TRL, experts eager", experts="eager"),
    "trl_bf16": _trl("TRL, its default bf16=True (another precision)", bf16=True),
    "trl_adamw": _trl("TRL, optim=adamw_torch", optim="adamw_torch"),
    "trl_quiet": _trl("TRL, logging every 1,000 steps", logging_steps=1000),
    "trl_workers": _trl("TRL, dataloader_num_workers=1", dataloader_num_workers=1),
}
DEFAULT = ["ours", "trl", "trl_two", "trl_default", "ddp", "plain", "causal", "ours_one"]
SWEEP = [name for name, contender in CONTENDERS.items() if contender.trl]
OPPONENTS = [name for name in SWEEP if name != "trl_bf16"]  # ratio_vs_trl uses the fastest of these that ran


def run_contender(
    name: str, workload: Workload, folder: Path, *, steps: int, bins_per_step: int, timeout: float = 1800
) -> dict[str, Any]:
    """Run a contender.

    Args:
        name: A key of CONTENDERS.
        workload: The model and the data.
        folder: The folder of the contender's files, which is emptied first; `log.txt` has its output.
        steps: The number of steps.
        bins_per_step: The number of bins per step, of all processes together.
        timeout: The maximum run time, in seconds.

    Returns:
        The outcome that `bench.train.job.Stopwatch` wrote.

    Raises:
        RuntimeError: The contender failed; the message has the end of its output.
    """
    contender = CONTENDERS[name]
    shutil.rmtree(folder, ignore_errors=True)
    job = Job(
        workload=str(workload.folder),
        out=str(folder),
        steps=steps,
        bins_per_step=bins_per_step,
        threads=contender.threads,
        options=dict(contender.options),
    )
    run_module(contender.module, job, processes=contender.processes, trl=contender.trl, timeout=timeout)
    return dict(json.loads((folder / "outcome.json").read_text()))


def run_module(
    module: str, job: Job, *, processes: int, trl: bool = False, timeout: float, visible: bool = False
) -> None:
    """Run `python -m module job.json` in the repository's root; with several processes, under torchrun.

    Args:
        module: The module to run.
        job: The job, which is written to a file for the module.
        processes: The number of processes.
        trl: Whether TRL's packages are on the path.
        timeout: The maximum run time, in seconds.
        visible: Print the module's standard output. Otherwise it goes, as the errors do, to `log.txt` beside the job.

    Raises:
        RuntimeError: The module failed; the message has the end of its output.
    """
    if trl and not (TRL_PACKAGES / "trl").is_dir():
        raise RuntimeError(f"TRL is not installed in {TRL_PACKAGES}. Run `make bench-train`, which installs it.")
    path = job.write()
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([str(TRL_PACKAGES)] if trl else [])])
    log = path.with_name("log.txt")
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *torchrun, "-m", module, str(path)],
            cwd=ROOT,
            env=environment,
            stdout=None if visible else output,
            stderr=output,
        )
        try:
            code = process.wait(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{module} did not end within {timeout:.0f} s; its output is in {log}") from error
        finally:
            if process.poll() is None:  # like Ctrl-C, so that it ends its own processes
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=30)
                process.kill()
    if code:
        raise RuntimeError(f"{module} failed with exit code {code}:\n{log.read_text()[-3000:]}")


def speed(outcome: Mapping[str, Any], *, warmup: int) -> float:
    """Compute real tokens per second, from the end of step `warmup` to the end of the last step.

    The time between steps counts.

    Args:
        outcome: A contender's `ends` (seconds) and `tokens`, one per step.
        warmup: The number of steps to skip, at least one, because the start of the first step is unknown.

    Raises:
        ValueError: No step is left to measure.
    """
    ends, tokens = outcome["ends"], outcome["tokens"]
    if not 1 <= warmup < len(ends):
        raise ValueError(f"{len(ends)} steps with a warm-up of {warmup} leave nothing to measure")
    return float(sum(tokens[warmup:]) / (ends[-1] - ends[warmup - 1]))


def median_speed(rounds: list[dict[str, float]], name: str) -> float | None:
    """Return the median over the rounds in which `name` ran, or None if it never ran."""
    values = [round_[name] for round_ in rounds if name in round_]
    return statistics.median(values) if values else None

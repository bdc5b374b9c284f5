"""`make bench-train`: measures training and prints the comparison.

The functions are in the order of execution.

make bench-train                                   everything (about 40 minutes); run nothing else meanwhile
make bench-train ARGS="--only ours,trl,ddp"        some contenders
make bench-train ARGS="--only kills --kills 20"    one part; bench/out/train.json keeps the results of the others
make bench-train ARGS="--only trl-sweep"           TRL's settings against each other
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from bench.train.contenders import CONTENDERS, DEFAULT, ROOT, SWEEP, run_contender, run_module, speed
from bench.train.job import Job
from bench.train.result import Result, code_digest, table
from bench.train.workload import Workload, make_workload

from brew_platform.processes import become_subreaper, kill_descendants
from brew_platform.provenance import source_commit

OUT = ROOT / "bench" / "out"
PARTS = ("blocked", "kills")  # in addition to contenders


def main() -> None:
    options = _options()
    become_subreaper()
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"The machine's load is {load:.1f}: other processes are running, so the timings will be wrong.")
    result = Result(OUT / "train.json", commit=source_commit(ROOT), code=code_digest(ROOT))
    if result.dropped:
        print(f"Earlier results ({', '.join(result.dropped)}) are from other code or another machine, and are dropped.")
    work = OUT / "work"
    shutil.rmtree(work, ignore_errors=True)
    try:
        workload = make_workload(work / "workload", documents=options.documents)
        print(
            f"{workload.parameters:,} parameters; {workload.n_documents:,} documents, {workload.n_tokens:,} tokens in "
            f"{workload.n_bins:,} bins, {workload.fill:.1%} full"
        )
        contenders = [name for name in options.only if name in CONTENDERS]
        if contenders:
            measure_speed(contenders, workload, work, result, options)
        if "blocked" in options.only:
            measure_blocked(workload, work, result, options)
        if "kills" in options.only:
            measure_kills(workload, work, result, options)
    except KeyboardInterrupt:
        print("\ninterrupted; what was finished is kept")
        sys.exit(130)
    finally:
        kill_descendants()
        if result.parts:
            print(f"\n{table(result)}\n\n{result.path}")


def measure_speed(
    contenders: list[str], workload: Workload, work: Path, result: Result, options: argparse.Namespace
) -> None:
    """Run every contender once per round, so a slow period of the machine affects all of them."""
    part: dict[str, Any] = {
        "protocol": {name: getattr(options, name) for name in ("steps", "warmup", "bins_per_step")},
        "workload": workload_facts(workload),
        "rounds": [],
        "settings": {},
    }
    for number in range(1, options.rounds + 1):
        part["rounds"].append({})
        for name in contenders:
            began = time.perf_counter()
            outcome = run_contender(
                name, workload, work / name, steps=options.steps, bins_per_step=options.bins_per_step
            )
            measured = speed(outcome, warmup=options.warmup)
            part["rounds"][-1][name] = measured
            part["settings"][name] = outcome["settings"]
            result.put("speed", part)
            print(
                f"round {number}/{options.rounds}  {CONTENDERS[name].title:<48}{measured:8,.0f} tokens/s"
                f"  ({time.perf_counter() - began:.0f} s including start-up)",
                flush=True,
            )


def measure_blocked(workload: Workload, work: Path, result: Result, options: argparse.Namespace) -> None:
    """Measure the share of time that training waits for checkpoints, with one every `interval` steps."""
    interval = options.interval
    job = Job(
        workload=str(workload.folder),
        out=str(work / "blocked"),
        steps=(options.intervals + 1) * interval,
        bins_per_step=options.bins_per_step,
        threads=1,
        options={"checkpoint_every": interval},
    )
    print(f"checkpoints: {job.steps} steps, a checkpoint every {interval}", flush=True)
    run_module("bench.train.ours", job, processes=2, timeout=3600)
    rows = [json.loads(line) for line in (work / "blocked" / "run" / "metrics.jsonl").read_text().splitlines()]
    result.put("blocked", {**blocked(rows, interval=interval), "workload": workload_facts(workload)})


def blocked(rows: list[dict[str, Any]], *, interval: int) -> dict[str, Any]:
    """Compute the share of time that checkpoints blocked training, over whole intervals between checkpoints.

    Args:
        rows: The rows of metrics.jsonl. The row after a checkpoint has the time that it blocked.
        interval: The number of steps between checkpoints. The first interval is warm-up; its checkpoint belongs to the
            second one.

    Returns:
        The share, and the values that it is computed from.
    """
    at = {row["step"]: row for row in rows}
    last = max(at) // interval * interval
    seconds = at[last]["time"] - at[interval]["time"]
    blocked = [at[step + 1]["checkpoint_blocked_seconds"] for step in range(interval, last, interval)]
    waited = sum(at[step]["checkpoint_blocked_seconds"] for step in range(interval + 1, last + 1))
    return {
        "share": waited / seconds,
        "interval_steps": interval,
        "interval_seconds": seconds / len(blocked),
        "blocked_seconds": blocked,
        "tokens_per_second": sum(at[step]["tokens"] for step in range(interval + 1, last + 1)) / seconds,
    }


def measure_kills(workload: Workload, work: Path, result: Result, options: argparse.Namespace) -> None:
    """Kill random workers of a run on Ray, and compare it with an uninterrupted run."""
    steps = options.kill_steps or 30 * options.kills + 60
    job = Job(
        workload=str(workload.folder),
        out=str(work / "kills"),
        steps=steps,
        bins_per_step=2,  # short steps, so that kills hit more different moments
        threads=1,
        options={"kills": options.kills, "checkpoint_every": 10, "seed": options.seed},
    )
    print(f"kills: {options.kills} in {steps} steps", flush=True)
    run_module("bench.train.kills", job, processes=1, timeout=300 + 90 * options.kills, visible=True)
    outcome = json.loads((work / "kills" / "outcome.json").read_text())
    result.put("kills", {**outcome, "seed": options.seed, "workload": workload_facts(workload)})


def workload_facts(workload: Workload) -> dict[str, Any]:
    """Return the sizes of the workload, for the result file."""
    return {key: value for key, value in vars(workload).items() if key != "folder"} | {"fill": workload.fill}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        default=",".join([*DEFAULT, *PARTS]),
        help=f"comma-separated: {', '.join([*CONTENDERS, *PARTS])}, trl-sweep (all of TRL's); default: %(default)s",
    )
    for name, default, text in (
        ("rounds", 3, "number of rounds; every contender runs once per round"),
        ("steps", 30, "steps of a contender in a round"),
        ("warmup", 6, "first steps that are not timed"),
        ("bins-per-step", 8, "bins of 1,024 tokens per step"),
        ("documents", 2400, "number of documents, of 150 to 900 tokens"),
        ("interval", 100, "steps between checkpoints in the part blocked"),
        ("intervals", 2, "measured intervals in the part blocked, after one of warm-up"),
        ("kills", 20, "number of workers to kill"),
        ("kill-steps", 0, "steps of the run with kills; 0: 30 per kill and 60 more"),
        ("seed", 0, "seed of the kills"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text}; default: %(default)s")
    options = parser.parse_args()
    names: list[str] = []
    for name in options.only.split(","):
        names += SWEEP if name == "trl-sweep" else [name]
    if unknown := [name for name in names if name not in CONTENDERS and name not in PARTS]:
        parser.error(
            f"--only has unknown values {', '.join(unknown)}; known are {', '.join([*CONTENDERS, *PARTS])}, trl-sweep"
        )
    options.only = names
    if not 1 <= options.warmup < options.steps:
        parser.error(f"--warmup {options.warmup} of --steps {options.steps} leaves nothing to measure")
    return options


if __name__ == "__main__":
    main()

"""`python -m bench.tables`: builds training data from generated CSV files with the real command, and measures it."""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench.commands import BREW360
from bench.tables.workload import write_workload

from brew_platform.processes import ProcessTreeMeter
from brew_platform.provenance import machine, now, source_commit, versions

OUT = Path(__file__).parents[1] / "out"
PACKAGES = ("pyarrow", "ray", "tokenizers")


def main() -> None:
    """Generate, build, print and write `bench/out/tables.json`."""
    parser = argparse.ArgumentParser(prog="python -m bench.tables", description=__doc__)
    parser.add_argument("--members", type=int, default=20_000)
    parser.add_argument("--entities", type=int, default=10_000)
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=OUT / "tables", help="Receives the CSV files and the data.")
    options = parser.parse_args()

    recipe = write_workload(
        options.folder,
        members=options.members,
        entities=options.entities,
        interactions=options.interactions,
        seed=options.seed,
    )
    out = options.folder / "data"
    shutil.rmtree(out, ignore_errors=True)
    command = [BREW360, "data", "build", recipe.name, "--out", out.name]
    print(" ".join(command[1:]), flush=True)
    start = time.perf_counter()
    with ProcessTreeMeter(interval_seconds=0.5) as memory:
        code = subprocess.run(command, cwd=recipe.parent, env={**os.environ, "COLUMNS": "120"}, check=False).returncode
    seconds = time.perf_counter() - start
    if code:
        sys.exit(code)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    card = json.loads((out / "card.json").read_text())
    figures = {
        "rows": options.interactions,
        "members": options.members,
        "entities": options.entities,
        "quarantined": card["quarantined"],
        "documents": card["bins"]["bins"]["n_documents"],
        "tokens": card["bins"]["bins"]["n_tokens"],
        "seconds": round(seconds, 1),
        "phase_seconds": card["seconds"],
        "cpu_seconds": round(
            used.ru_utime + used.ru_stime, 1
        ),  # of the command's own process; Ray's workers not included
        "rows_per_second": round(options.interactions / seconds),
        "peak_memory_gb": round(memory.peak_bytes / 1e9, 2),
        "seed": options.seed,
        "date": now(),
        "commit": source_commit(),
        "machine": machine(),
        "versions": versions(PACKAGES),
    }
    (OUT / "tables.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(
        f"{figures['rows']:,} rows in {figures['seconds']} s ({figures['rows_per_second']:,} rows/s), peak memory "
        f"{figures['peak_memory_gb']} GB of all processes: {OUT / 'tables.json'}"
    )


if __name__ == "__main__":
    main()

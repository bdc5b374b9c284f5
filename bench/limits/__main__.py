"""`make bench-limits`: CPU, stalls and memory of requests that are made to be expensive, and the cost of quotas."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.limits.quotas import measure_quotas
from bench.limits.requests import HOSTILE
from rich.console import Console
from rich.table import Table

from brew_platform.files import replace_atomically
from brew_platform.provenance import machine, now, source_commit, versions

OUT = Path(__file__).parents[1] / "out"
CONTEXT, LONG_CONTEXT = 2_048, 32_768
LONG = ("score_text", "score_shorter_text", "score_ids", "completion_text", "chat_text")  # also with the long context
SECONDS = 900  # time limit of a request
FIGURES = {
    "body_kb": "body, KB",
    "status": "status",
    "seconds": "s",
    "cpu_seconds": "CPU s",
    "stall_ms": "stall, ms",
    "held_ms": "held, CPU ms",
    "memory_mb": "memory, MB",
}


def measure(name: str, context_length: int) -> dict[str, float]:
    """Measure one request in a process of its own."""
    command = [sys.executable, "-m", "bench.limits.measure", name, str(context_length)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=SECONDS)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure, print and write `bench/out/limits.json`."""
    parser = argparse.ArgumentParser(prog="make bench-limits", description=__doc__)
    parser.add_argument("--only", default="", help="Names of requests, separated by commas; `quotas` for none.")
    parser.add_argument("--redis", help="URL of a Redis, to measure quotas that gateways share.")
    parser.add_argument("--out", type=Path, default=OUT / "limits.json", help="The file to write.")
    options = parser.parse_args()
    names = [name for name in (options.only.split(",") if options.only else HOSTILE) if name != "quotas"]
    requests: dict[str, Any] = {}
    figures: dict[str, Any] = {
        "normal": measure("normal", CONTEXT),
        "requests": requests,
        "quotas": measure_quotas(options.redis),
        "machine": machine(),
        "versions": versions(("pydantic", "tokenizers")),
        "date": now(),
        "commit": source_commit(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        for context_length in (CONTEXT, LONG_CONTEXT) if name in LONG else (CONTEXT,):
            key = name if context_length == CONTEXT else f"{name}, {context_length} tokens of context"
            requests[key] = measure(name, context_length)
            replace_atomically(options.out, json.dumps(figures, indent=1) + "\n")
    replace_atomically(options.out, json.dumps(figures, indent=1) + "\n")
    table = Table("request", *FIGURES.values(), title="Expensive requests", title_justify="left")
    for name, found in requests.items():
        table.add_row(name, *(f"{found[key]:,.4g}" for key in FIGURES))
    console = Console()
    console.print(table)
    for where, found in figures["quotas"].items():
        shown = ", ".join(f"{key.removesuffix('_us')} {value:,.0f} µs" for key, value in found.items())
        console.print(f"A quota {where}: {shown}", markup=False)
    console.print(f"A ranking of 50 candidates: {figures['normal']}", markup=False)
    console.print(str(options.out), markup=False)


if __name__ == "__main__":
    main()

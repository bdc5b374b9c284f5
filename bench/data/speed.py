"""Times the product's pipeline and the peer's on the same documents, in turns, each in its own processes."""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brew_platform.errors import UserError
from brew_platform.files import replace_atomically

__all__ = ["KINDS", "PEERS", "summarize"]

ROOT = Path(__file__).parents[2]
TOKENIZER = "prompts/tokenizer.json"  # of a data folder
# Kind of documents -> the share of the members whose documents are built
KINDS = {
    "chats": 1.0,  # of the recipe, in varied forms
    "prompts": 0.25,  # each interaction of a trained task as the prompt that serving builds for it, with its answer
}
# Name of a setting of the peer -> processes of `datasets.map`; 0: as many as cores
PEERS = {"peer_threads": 1, "peer_processes": 0}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.data.speed", description=__doc__)
    parser.add_argument("data", type=Path, help="Folder that `brew360 data build` made.")
    parser.add_argument("--rounds", type=int, default=3, help="Runs of each contender. Default: %(default)s.")
    parser.add_argument("--packages", type=Path, default=Path(sys.prefix) / "bench", help="Folder of TRL's packages.")
    parser.add_argument("--report", type=Path, required=True, help="JSON file for the figures.")
    options = parser.parse_args()
    if not (options.packages / "trl").is_dir():
        raise UserError(f"TRL is not installed in {options.packages}. Run `make bench-data`, which installs it.")
    data, work = options.data.absolute(), options.report.absolute().with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    found = {kind: _compare(kind, data, work, options) for kind in KINDS}
    replace_atomically(options.report, json.dumps(found, indent=1))


def _compare(kind: str, data: Path, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    rounds: list[dict[str, Any]] = []
    for number in range(1, options.rounds + 1):
        measured = {"ours": _run("ours", [str(data), "--kind", kind, "--bins", str(work / "bins")], work)}
        if number == 1:
            _texts(data, work)
        for name, processes in PEERS.items():
            arguments = [str(work / "texts.parquet"), "--tokenizer", str(data / TOKENIZER)]
            arguments += ["--capacity", str(_capacity(work / "bins"))]
            arguments += ["--processes", str(processes or os.cpu_count() or 1)]
            measured[name] = _run("peer", arguments, work, packages=options.packages)
        rounds.append(measured)
        speeds = ", ".join(f"{name} {row['tokens'] / row['seconds']:,.0f}" for name, row in measured.items())
        print(f"{kind}, round {number} of {options.rounds}, tokens/s: {speeds}", flush=True)
    return {**summarize(rounds), "rounds": rounds}


def summarize(rounds: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the medians of the rounds.

    Args:
        rounds: The report of each contender, by its name: `ours` and those in `PEERS`.

    Returns:
        ours_tokens_per_second; peer_tokens_per_second, of the faster setting of the peer, and peer, its name; ratio;
        fill, ours; peer_fill; tokens; same_length, the share of the documents that have as many tokens in both.
    """
    speeds = {
        name: statistics.median(row[name]["tokens"] / row[name]["seconds"] for row in rounds)
        for name in ("ours", *PEERS)
    }
    fastest = max(PEERS, key=speeds.__getitem__)
    ours, peer = rounds[0]["ours"], rounds[0][fastest]
    return {
        "ours_tokens_per_second": speeds["ours"],
        "peer_tokens_per_second": speeds[fastest],
        "peer": fastest,
        "ratio": speeds["ours"] / speeds[fastest],
        "fill": ours["fill"],
        "peer_fill": peer["fill"],
        "tokens": ours["tokens"],
        "same_length": peer["same_length"],
    }


def _texts(data: Path, work: Path) -> None:
    command = [str(work / "bins"), "--tokenizer", str(data / TOKENIZER), "--out", str(work / "texts.parquet")]
    subprocess.run([sys.executable, "-m", "bench.data.texts", *command], cwd=ROOT, check=True)


def _capacity(bins: Path) -> int:
    return int(json.loads((bins / "plan.json").read_text())["context_length"])


def _run(module: str, arguments: Sequence[str], work: Path, *, packages: Path | None = None) -> dict[str, Any]:
    report = work / f"{module}.json"
    report.unlink(missing_ok=True)
    paths = [str(ROOT), *([str(packages)] if packages else []), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", f"bench.data.{module}", *arguments, "--report", str(report)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    found: dict[str, Any] = json.loads(report.read_text())
    return found


if __name__ == "__main__":
    main()

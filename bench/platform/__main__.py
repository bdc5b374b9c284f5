"""`make bench-platform`: publishers at once, injected faults, the fold of a long log, the speed of a publication."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.platform.cluster_render import measure_render
from bench.platform.faults import inject_faults, publish_beside_collections
from bench.platform.stores import STORES, BenchStore, open_bench_store
from bench.platform.timings import measure_fold, measure_publication, publish_at_once
from rich.console import Console
from rich.table import Table

from brew_platform.errors import UserError
from brew_platform.files import replace_atomically
from brew_platform.provenance import machine, now, source_commit, versions

OUT = Path(__file__).parents[1] / "out"
PARTS = ("render", "publishers", "faults", "collections", "fold", "publication")
LARGE = {"folder": 1_000_000_000, "moto": 256_000_000, "rgw": 256_000_000}  # bytes; the S3 servers keep them in memory
WORST: dict[str, Callable[[list[Any]], Any]] = {  # of all stores, for the summary
    "publishers": min,
    "versions": min,
    "faults": sum,
    "violations": sum,
    "fold_10k_ms": max,
    "publish_ratio": max,
}


def measure(store: BenchStore, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts on one store."""
    quick = options.quick
    found: dict[str, Any] = {}
    if "publishers" in options.parts:
        found |= publish_at_once(store, folder, publishers=8 if quick else options.publishers)
    if "fold" in options.parts:
        found["fold"] = measure_fold(store, events=600 if quick else 10_000)
        found["fold_10k_ms"] = found["fold"]["fold_10k_ms"]
    if "publication" in options.parts:
        size = 2_000_000 if quick else LARGE[store.name]
        found |= measure_publication(store, folder, size=size, rounds=2 if quick else 3)
    if "collections" in options.parts:
        found["collections"] = publish_beside_collections(
            store, folder, publishers=3 if quick else 4, each=2 if quick else 20
        )
        found["violations"] = found["collections"]["violations"]
    if "faults" in options.parts:
        injected = inject_faults(store, folder / "faults", faults=10 if quick else options.faults, seed=options.seed)
        injected["violations"] += found.get("violations", 0)
        found |= injected
    return found


def summary(stores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the worst figure of all stores, and the sum of faults and violations."""
    return {
        name: pick([found[name] for found in stores.values() if name in found])
        for name, pick in WORST.items()
        if any(name in found for found in stores.values())
    }


def main() -> None:
    """Measure, print and write `bench/out/platform.json`."""
    parser = argparse.ArgumentParser(prog="make bench-platform", description=__doc__)
    parser.add_argument("--stores", default=",".join(STORES), help="Names, separated by commas.")
    parser.add_argument("--parts", default=",".join(PARTS), help="Names, separated by commas.")
    parser.add_argument("--publishers", type=int, default=64, help="Processes that publish at once.")
    parser.add_argument("--faults", type=int, default=1_000, help="Faults per store.")
    parser.add_argument("--seed", type=int, default=0, help="Of the faults.")
    parser.add_argument("--quick", action="store_true", help="Tiny sizes, to try the benchmark.")
    parser.add_argument("--folder", type=Path, help="For files. Default: a temporary folder.")
    parser.add_argument("--out", type=Path, default=OUT / "platform.json", help="The file to write.")
    options = parser.parse_args()
    options.parts = options.parts.split(",")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the servers are stopped
    console = Console()
    stores: dict[str, dict[str, Any]] = {}
    figures: dict[str, Any] = {}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if "render" in options.parts:
        figures |= measure_render(1 if options.quick else 5)
    root = Path(tempfile.mkdtemp(prefix="brew360-bench-", dir=options.folder))
    try:
        for name in options.stores.split(","):
            folder = root / name
            folder.mkdir()
            try:
                with open_bench_store(name, folder) as store:
                    stores[name] = measure(store, folder, options)
            except UserError as error:  # it is not installed
                console.print(f"{name} is left out: {error}", markup=False)
                figures.setdefault("left_out", {})[name] = str(error)
                continue
            figures |= summary(stores)
            figures |= {"stores": stores, "machine": machine(), "date": now(), "commit": source_commit()}
            figures["versions_of_packages"] = versions(("boto3", "moto"))
            replace_atomically(options.out, json.dumps(figures, indent=1) + "\n")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if "render_seconds" in figures:
        console.print(
            f"checking and rendering the definition of 512 GPUs takes {figures['render_seconds']} s, and the command "
            f"{figures['render_command_seconds']} s"
        )
    table = Table("store", *WORST, title="Registry", title_justify="left")
    for name, found in stores.items():
        table.add_row(name, *(str(found.get(figure, "-")) for figure in WORST))
    console.print(table)
    console.print(str(options.out), markup=False)


if __name__ == "__main__":
    main()

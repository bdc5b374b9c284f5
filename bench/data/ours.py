"""Times the product's pipeline: from the tables of a data folder to packed bins.

The time begins with the tables on disk and ends when the bins and their plan are on disk. Before it, the workers of Ray
start, and pack a fiftieth of the members.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

from brew_cluster.ray.local_ray import local_ray
from brew_data.data_folder import DataFolder
from brew_data.pipelines.documents import build_bins
from brew_data.prompts.compiler import PromptCompiler
from brew_platform.files import replace_atomically

WARM_UP = (0.0, 0.02)  # part of the members


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.data.ours", description=__doc__)
    parser.add_argument("data", type=Path, help="Folder that `brew360 data build` made.")
    parser.add_argument("--bins", type=Path, required=True, help="Folder for the bins; its files are replaced.")
    parser.add_argument("--report", type=Path, required=True, help="JSON file for the figures.")
    options = parser.parse_args()
    data = DataFolder.open(options.data)
    bundle = data.bundle()
    compiler = PromptCompiler(bundle.suite, bundle.tokenizer, bundle.format)
    warm_up = options.bins.with_name(f"{options.bins.name}-warm-up")
    shutil.rmtree(options.bins, ignore_errors=True)  # bins that exist are not built again
    with local_ray(detached=False, logs=options.report.with_suffix(".logs")):
        build_bins(data.tables_folder, compiler, data.info.split, warm_up, members=WARM_UP)
        start = time.perf_counter()
        plan = build_bins(data.tables_folder, compiler, data.info.split, options.bins)
        seconds = time.perf_counter() - start
    shutil.rmtree(warm_up)
    report = {
        "seconds": seconds,
        "tokens": plan.n_tokens,
        "documents": plan.n_documents,
        "bins": plan.n_bins,
        "fill": plan.fill,
    }
    replace_atomically(options.report, json.dumps(report))


if __name__ == "__main__":
    main()

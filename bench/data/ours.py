"""Times the product's pipeline: from the tables of a data folder to packed bins.

The time begins with the tables on disk and ends when the bins and their plan are on disk. Before it, the workers of Ray
start and import the pipeline, as the peer's process has imported its packages before its time begins.
"""

import argparse
import importlib
import json
import shutil
import time
from pathlib import Path

import ray
from bench.data.speed import KINDS

from brew_cluster.ray.local_ray import local_ray
from brew_data.data_folder import DataFolder
from brew_data.pipelines.documents import build_bins
from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.suite import changed_suite
from brew_data.prompts.task_suite import TaskSuite
from brew_data.prompts.variation import VariationConfig
from brew_platform.files import replace_atomically

START_SECONDS = 3.0  # that each task takes, so that each worker gets one
PROMPTS = 64  # of a member and task; few members have more


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.data.ours", description=__doc__)
    parser.add_argument("data", type=Path, help="Folder that `brew360 data build` made.")
    parser.add_argument("--kind", choices=KINDS, default="chats", help="Documents. Default: %(default)s.")
    parser.add_argument("--bins", type=Path, required=True, help="Folder for the bins; its files are replaced.")
    parser.add_argument("--report", type=Path, required=True, help="JSON file for the figures.")
    options = parser.parse_args()
    data = DataFolder.open(options.data)
    variation = VariationConfig(**json.loads((options.data / "card.json").read_text())["config"]["variation"])
    bundle, prompts = data.bundle(), options.kind == "prompts"
    suite = _with_prompts(bundle.suite) if prompts else bundle.suite
    compiler = PromptCompiler(suite, bundle.tokenizer, bundle.format)
    shutil.rmtree(options.bins, ignore_errors=True)  # a build that did not finish would be continued
    with local_ray(detached=False, logs=options.report.with_suffix(".logs")):
        start_worker = ray.remote(num_cpus=1)(_start_worker)
        ray.get([start_worker.remote() for _ in range(int(ray.cluster_resources()["CPU"]))])
        start = time.perf_counter()
        plan = build_bins(
            data.tables_folder,
            compiler,
            data.info.split,
            options.bins,
            members=(0.0, KINDS[options.kind]),
            variation=None if prompts else variation,
        )
        seconds = time.perf_counter() - start
    report = {
        "seconds": seconds,
        "tokens": plan.n_tokens,
        "documents": plan.n_documents,
        "bins": plan.n_bins,
        "fill": plan.fill,
    }
    replace_atomically(options.report, json.dumps(report))


def _with_prompts(suite: TaskSuite) -> TaskSuite:
    tasks = [task.name for task in suite.tasks if task.in_training and task.trains_on_examples]
    return changed_suite(suite, [f"tasks.{name}.examples_per_member={PROMPTS}" for name in tasks])


def _start_worker() -> None:
    importlib.import_module("brew_data.pipelines.documents")
    time.sleep(START_SECONDS)


if __name__ == "__main__":
    main()

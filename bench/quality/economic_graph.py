"""Measures a base model on all tasks of a generated network of another seed, beside baselines of that network."""

import json
from pathlib import Path
from typing import Any

from bench.commands import BREW360
from rich.console import Console

from brew_cluster.releases.steps import Steps
from brew_data.prompts.suite import load_suite

__all__ = ["measure_suite"]

RECIPE = Path("bench/quality/recipes/economic_graph_data.yaml")
BASELINES = ("popularity", "entity_mean", "matches", "lightgbm")
SUITE = "professional_network"


def measure_suite(model: Path, folder: Path, console: Console, *, rows: int, quick: bool) -> dict[str, Any]:
    """Build the data, score rows of every task of both tiers with the serving engine, and fit the baselines.

    Args:
        model: Folder of a base model.
        folder: Receives data, reports, and the records of the steps.
        console: The output.
        rows: Of each task, drawn from those after the cut.
        quick: A few members and rows.

    Returns:
        `tasks`: by name `tier`, `surface`, `rows`, `auc`, `baseline_auc` (of `entity_mean`), the AUC of each baseline
        as `NAME_auc`, `best_auc` and `gap_closed`. `suite_seconds`: the whole benchmark; `score_seconds`: the model's
        part.

    Raises:
        StepFailed: A command failed; its message is above.
    """
    steps = Steps(folder / "steps", console, ["data", "benchmark"])
    settings = [f"tokenizer.from={model}", *(["source_config.members=150"] if quick else [])]
    data = steps.run(
        "data", [BREW360, "data", "build", str(RECIPE), "--out", str(folder / "data"), *settings],
        output=folder / "data", files=[RECIPE],
    )  # fmt: skip
    report = folder / "report.json"
    command = [BREW360, "benchmark", "run", str(model), "--data", str(data), "--report", str(report)]
    command += ["--rows", str(20 if quick else rows), "--baselines", ",".join(BASELINES)]
    steps.run("benchmark", [*command, f"run={folder / 'benchmark'}"], output=report, after=["data"])
    content = json.loads(report.read_text())
    suite = load_suite(SUITE)
    tasks = {}
    for name, figures in content["tasks"].items():
        task = suite.task(name)
        tasks[name] = {
            "tier": "T1" if task.in_training else "T2",
            "surface": task.surface,
            **{key: figures[key] for key in ("rows", "auc", "baseline_auc", "best_auc", "gap_closed")},
            **{f"{baseline}_auc": figures[f"{baseline}_auc"] for baseline in BASELINES},
        }
    return {
        "tasks": tasks,
        "sample": content["sample"],
        "suite_seconds": steps.records["benchmark"].seconds,
        "score_seconds": content["seconds"]["score"],
    }

"""Trains a model from scratch on MovieLens, and measures it on the rows that the baselines are measured on.

The steps are the product's commands. A finished step is not run again, and training continues from its last checkpoint.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.commands import BREW360, TRAINING
from bench.quality.figures import movielens_figures
from rich.console import Console

from brew_cluster.jobs.benchmark_report import read_rows
from brew_cluster.releases.steps import Steps
from brew_data.data_folder import DataFolder
from brew_eval.scored_rows import ScoredRows

__all__ = ["RECIPES", "train_and_measure"]

RECIPES = Path("bench/quality/recipes")
_STEPS = ("data", "train", "streaming", "data-at-cut", "frozen")


def train_and_measure(
    data: Path, folder: Path, console: Console, *, replicates: int, validation: bool, quick: bool
) -> dict[str, Any]:
    """Build the data, train, and score the rows after the cut twice: with streaming and with frozen histories.

    Args:
        data: Folder of a MovieLens release.
        folder: Receives data, training run, reports, and the records of the steps.
        console: The output.
        replicates: Of the bootstrap over members.
        validation: Cut the training rows again, and score the later ones: for the choice of settings.
        quick: A few steps and rows.

    Returns:
        As `movielens_figures`, and `data_seconds`, `train_seconds`, `score_seconds`.

    Raises:
        StepFailed: A command failed; its message is above.
    """
    steps = Steps(folder / "steps", console, _STEPS)
    run = folder / "train"

    def build(name: str, settings: Sequence[str], after: Sequence[str]) -> Path:
        recipe, out = RECIPES / "movielens_data.yaml", folder / name
        command = [BREW360, "data", "build", str(recipe), "--out", str(out), f"path={data}", *settings]
        command += ["split.validation=true"] if validation else []
        return steps.run(name, command, output=out, files=[recipe], after=after)

    def score(name: str, built: Path, after: Sequence[str]) -> ScoredRows:
        report = folder / f"{name}.json"
        command = [BREW360, "benchmark", "run", str(run / "export"), "--data", str(built), "--history", name]
        command += ["--rows", "100" if quick else "all", "--baselines", "none", "--report", str(report)]
        steps.run(name, [*command, f"run={folder / 'benchmark'}"], output=report, after=after)
        return read_rows(report)

    built = build("data", [], [])
    recipe = RECIPES / "movielens.yaml"
    settings = [f"data={built}", f"run={run}", *(["train.stages.0.steps=2"] if quick else [])]
    steps.run(
        "train", [BREW360, "train", str(recipe), *settings], output=run, files=[recipe], after=["data"],
        environment=TRAINING,
    )  # fmt: skip
    streaming = score("streaming", built, ["train"])
    # With frozen histories, a film too is shown as it stood at the cut.
    until = DataFolder.open(built).info.split.train_until // 1_000_000
    at_cut = build(
        "data-at-cut", [f"source_config.averages_until={until}", f"tokenizer.from={run / 'export'}"], ["train"]
    )
    frozen = score("frozen", at_cut, ["data-at-cut"])
    seconds = {name: steps.records[name].seconds for name in _STEPS}
    return movielens_figures(streaming, frozen, replicates) | {
        "data_seconds": seconds["data"],
        "train_seconds": seconds["train"],
        "score_seconds": round(seconds["streaming"] + seconds["frozen"], 1),
    }

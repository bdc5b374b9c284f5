"""Probes of a model of 20,000 random parameters: variants of the rotary embedding, kept results, and other data."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from brew_cluster.jobs.study import StudyModel, plan_study, run_study
from brew_cluster.jobs.study_config import StudyConfig, StudyRecipe, read_study
from brew_cluster.jobs.study_probes import run_probes
from brew_cluster.releases.runner import Job, LocalRunner
from brew_data.data_folder import DataFolder
from brew_data.prompts.tokenizer import train_tokenizer
from brew_eval.studies.needle import NeedleConfig
from brew_eval.studies.study_table import StudyPlot
from brew_eval.studies.throughput import ThroughputConfig
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import UserError
from brew_serve.engines.config import EngineConfig

from ..tiny_version import write_tiny_version

ENGINE = EngineConfig(kind="torch")
NEEDLE = NeedleConfig(lengths=[160, 300], depths=[0.0, 1.0], prompts=2, alphas=[1.0, 2.0], extrapolate=True)


@pytest.fixture(scope="module")
def version(built_folder: DataFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "export"
    write_tiny_version(built_folder.bundle(), folder)
    return folder


def test_needles_are_read_with_each_variant_and_kept(version: Path, built_folder: DataFolder, tmp_path: Path) -> None:
    config = StudyConfig(
        name="needle", question="Is it found?", models={"tiny": str(version)}, data=str(built_folder.folder),
        needle=NEEDLE, engine=ENGINE, plot=StudyPlot(kind="heat", x="tokens", y="depth"),
    )  # fmt: skip
    console = PlainConsole(stderr=True)
    points = run_study(StudyRecipe(config=config), [], tmp_path, LocalRunner(), console)
    cells = {(point.series, point.x) for point in points if point.x is not None}
    # The context of the version is 256 tokens, and 512 with alpha 2.
    assert cells == {
        ("no scaling", 160.0), ("alpha 2", 160.0), ("alpha 2", 300.0),
        ("base of training", 160.0), ("base of training", 300.0),
    }  # fmt: skip
    assert {point.point for point in points if point.x is None} == {"no scaling", "alpha 2", "base of training"}
    assert len(list((tmp_path / "probes").iterdir())) == 3
    assert (tmp_path / "plot.svg").read_text().count(">base of training<") > 0
    kept = tmp_path / "probes"
    for file in kept.iterdir():
        file.write_text(file.read_text().replace("all cells", "kept"))
    again = run_study(StudyRecipe(config=config), [], tmp_path, LocalRunner(), console)
    assert "kept" in {point.series for point in again}


def test_series_of_several_models_have_their_names(version: Path, built_folder: DataFolder, tmp_path: Path) -> None:
    config = StudyConfig(
        name="speed", question="How fast?", models={"a": str(version), "b": str(version)},
        data=str(built_folder.folder), throughput=ThroughputConfig(lengths=[8], tokens=16, repeats=1), engine=ENGINE,
    )  # fmt: skip
    models = [StudyModel(name=name, reference=str(version), data=built_folder.folder) for name in ("a", "b")]
    points = run_probes(config, models, tmp_path, PlainConsole(stderr=True))
    assert {point.series for point in points} == {"a, scoring", "b, scoring"}


SWEEP = """
question: Does the model remember?
axis: {of: tokens, step: cpt}
recall: {control: bins, documents: 1, prompt_tokens: 20, continuation_tokens: 4}
engine: {kind: torch}
sweep:
  recipe: tiny
  settings: {without: [ift, sft, benchmark, publish, gates, canary, promote]}
  grid: {"cpt.train.stages.0.steps": [1, 2]}
"""


def test_a_probe_measures_the_models_of_a_sweep(version: Path, built_folder: DataFolder, tmp_path: Path) -> None:
    class Copies:
        """Copies a data set and an export instead of making them."""

        def run(self, job: Job, on_output: Callable[[str], None]) -> int:
            if job.name == "data":
                shutil.copytree(built_folder.folder, job.folder / "data")
                return 0
            steps = next(int(text.rpartition("=")[2]) for text in job.arguments if ".steps=" in text)
            shutil.copytree(version, job.folder / "run/export")
            rows = [{"step": step, "tokens": 50} for step in range(1, steps + 1)]
            (job.folder / "run/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            return 0

    (tmp_path / "memory.yaml").write_text(SWEEP)
    study = read_study(str(tmp_path / "memory.yaml"))
    releases = plan_study(study, tmp_path / "study", tmp_path / "steps")
    points = run_study(study, releases, tmp_path / "study", Copies(), PlainConsole(stderr=True))
    assert {(point.point, point.x) for point in points} == {("steps 1", 50.0), ("steps 2", 100.0)}
    assert {point.series for point in points} == {"trained", "not trained"}


def test_data_with_another_tokenizer_are_refused(built_folder: DataFolder, tmp_path: Path) -> None:
    bundle = replace(built_folder.bundle(), tokenizer=train_tokenizer(["other words"], vocabulary_size=280))
    write_tiny_version(bundle, tmp_path / "other")
    config = StudyConfig(
        name="speed", question="How fast?", models={"a": "a"}, data="data", throughput=ThroughputConfig(), engine=ENGINE
    )
    models = [StudyModel(name="a", reference=str(tmp_path / "other"), data=built_folder.folder)]
    with pytest.raises(UserError, match="has another tokenizer than"):
        run_probes(config, models, tmp_path, PlainConsole(stderr=True))

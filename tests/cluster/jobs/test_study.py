"""Studies: recipes, a sweep whose steps are written by a stand-in, resumption, tables, laws and plots."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from brew_cluster.cli.main import app
from brew_cluster.jobs.study import plan_study, redraw, run_study
from brew_cluster.jobs.study_config import StudyRecipe, read_study, shipped_studies
from brew_cluster.releases.runner import Job
from brew_eval.evaluation import evaluate
from brew_eval.measurement import EvaluationConfig
from brew_eval.report.files import write_report
from brew_eval.studies.study_table import StudyPoint, read_points
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import BrewError, UserError

from ...evaluation.rows import columns, scored

STUDY = """
question: Do more tokens help?
axis: {of: tokens, step: cpt}
laws: true
evaluation: {replicates: 50}
plot: {x: tokens, log: true}
sweep:
  recipe: tiny
  settings: {without: [ift, publish, gates, canary, promote]}
  grid: {"cpt.train.stages.0.steps": [1, 2, 4, 8]}
"""
SMALL = STUDY.replace("laws: true", "laws: false").replace("[1, 2, 4, 8]", "[1, 2]")


class StandIn:
    """Writes what the commands of a release would write; more steps of CPT give better scores."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fails_at: str | None = None

    def run(self, job: Job, on_output: Callable[[str], None]) -> int:
        self.ran.append(job.name)
        if job.name == self.fails_at:
            return 1
        output = self._output(job)
        if job.name == "data":
            output.mkdir()
            (output / "dataset.json").write_text("{}")
        elif job.name == "benchmark":
            self._benchmark(job, output)
        else:
            steps = next((int(text.rpartition("=")[2]) for text in job.arguments if ".steps=" in text), 4)
            (output / "export").mkdir(parents=True)
            save_file({"weight": np.zeros((steps, 3), np.float32)}, output / "export/model.safetensors")
            rows = [{"step": step, "tokens": 100} for step in range(1, steps + 1)]
            rows.append(rows[-1])  # a step that was repeated
            (output / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (output / "steps.txt").write_text(str(steps))
        return 0

    def _output(self, job: Job) -> Path:
        arguments = list(job.arguments)
        for name in ("--out", "--report"):
            if name in arguments:
                return Path(arguments[arguments.index(name) + 1])
        return Path(next(text for text in arguments if text.startswith("run=")).removeprefix("run="))

    def _benchmark(self, job: Job, output: Path) -> None:
        sft = next(Path(text) for text in job.arguments if text.endswith("/export"))
        number = int((sft.parent / "steps.txt").read_text()) if "cpt" not in self.ran else self.ran.count("cpt")
        data = columns(400)
        best = np.array(data["best"])
        noise = 4 / (1 + number) * np.random.default_rng(1).normal(size=len(best))
        table = scored({**data, "score": 1 / (1 + np.exp(-np.log(best / (1 - best)) - noise))})
        table.write(output.with_suffix(".parquet"))
        baseline = table.with_scores(np.full(len(table), 0.5), baseline="constant")
        write_report(evaluate(table, [baseline], EvaluationConfig(replicates=20)), output)


@pytest.fixture
def console() -> PlainConsole:
    return PlainConsole(stderr=True)


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(tmp_path: Path, text: str = STUDY, *overrides: str) -> StudyRecipe:
    (tmp_path / "growth.yaml").write_text(text)
    return read_study(str(tmp_path / "growth.yaml"), overrides)


def run(study: StudyRecipe, tmp_path: Path, runner: StandIn, console: PlainConsole) -> list[StudyPoint]:
    releases = plan_study(study, tmp_path / "study", tmp_path / "steps")
    return run_study(study, releases, tmp_path / "study", runner, console)


def test_a_study_has_points_laws_and_a_plot_and_runs_nothing_twice(tmp_path: Path, console: PlainConsole) -> None:
    runner = StandIn()
    study = read(tmp_path)
    releases = plan_study(study, tmp_path / "study", tmp_path / "steps")
    points = run_study(study, releases, tmp_path / "study", runner, console)
    assert {name: runner.ran.count(name) for name in ("data", "cpt", "ift", "sft", "benchmark")} == {
        "data": 1, "cpt": 4, "ift": 0, "sft": 4, "benchmark": 4,
    }  # fmt: skip
    aucs = [point for point in points if point.figure == "auc"]
    assert [point.x for point in aucs] == [100, 200, 400, 800]
    assert [point.point for point in aucs][:2] == ["steps 1", "steps 2"]
    values = [point.value.value or 0.0 for point in aucs]
    assert values == sorted(values)
    assert all((point.value.low or 1) < (point.value.value or 0) < (point.value.high or 0) for point in aucs)
    assert read_points(tmp_path / "study/table.csv") == points
    text = (tmp_path / "study/table.md").read_text()
    assert text.startswith("# growth\n\nDo more tokens help?")
    assert "| auc | like | auc |" in text
    first = (tmp_path / "study/plot.svg").read_text()
    assert "tokens" in first
    runner.ran.clear()
    assert run_study(study, releases, tmp_path / "study", runner, console) == points
    assert runner.ran == []
    redraw(tmp_path / "study", ["x=words"])
    assert "words" in (tmp_path / "study/plot.svg").read_text()


def test_a_study_continues_after_a_failure(tmp_path: Path, console: PlainConsole) -> None:
    runner = StandIn()
    runner.fails_at = "sft"
    study = read(tmp_path, SMALL)
    releases = plan_study(study, tmp_path / "study", tmp_path / "steps")
    with pytest.raises(BrewError, match="2 of 2 releases failed"):
        run_study(study, releases, tmp_path / "study", runner, console)
    assert not (tmp_path / "study/table.csv").exists()
    runner.fails_at = None
    runner.ran.clear()
    run_study(study, releases, tmp_path / "study", runner, console)
    assert set(runner.ran) == {"sft", "benchmark"}


def test_slices_stand_beside_the_baselines(tmp_path: Path, console: PlainConsole) -> None:
    text = SMALL.replace("laws: false", "by: history").replace("[1, 2]", "[1]")
    points = run(read(tmp_path, text, "figures=[auc]"), tmp_path, StandIn(), console)
    assert {point.point for point in points} >= {"0-4", "5-19"}
    assert {point.series for point in points} >= {"constant"}


def test_the_axis_of_parameters_counts_those_of_the_export(tmp_path: Path, console: PlainConsole) -> None:
    text = SMALL.replace("{of: tokens, step: cpt}", "{of: parameters}")
    text = text.replace('"cpt.train.stages.0.steps"', '"sft.train.stages.0.steps"')
    points = run(read(tmp_path, text), tmp_path, StandIn(), console)
    assert {point.x for point in points} == {3.0, 6.0}


def test_versions_can_be_scored_rows(tmp_path: Path, console: PlainConsole) -> None:
    for name in ("a", "b"):
        scored(columns()).write(tmp_path / f"{name}.parquet")
    text = "question: Which?\nevaluation: {replicates: 20}\n"
    text += "scored: {a: {rows: a.parquet, x: 1}, b: {rows: b.parquet, x: 2}}\n"
    points = run(read(tmp_path, text), tmp_path, StandIn(), console)
    assert [(point.point, point.x) for point in points if point.figure == "auc"] == [("a", 1.0), ("b", 2.0)]


def test_overrides_of_sections_are_settings_of_all_releases(tmp_path: Path) -> None:
    study = read(tmp_path, STUDY, "benchmark.rows=7", "from=models/gemma", "evaluation.replicates=9")
    assert study.sweep is not None
    assert all(settings[-2:] == ["benchmark.rows=7", "from=models/gemma"] for settings in study.sweep.releases.values())
    assert study.config.evaluation.replicates == 9


@pytest.mark.parametrize(
    ("change", "overrides", "sentence"),
    [
        (("question: Do", "questions: Do"), (), "unknown key questions"),
        (("laws: true", "needle: {prompts: 2}\nrecall: {documents: 2}"), (), "has the probes needle, recall. Keep one"),
        (("laws: true", "laws: true\nby: history"), (), "scaling laws are of figures by version"),
        (("laws: true", "scored: {a: {rows: a.parquet}}"), (), r"in two ways \(sweep, scored\)"),
        (("recipe: tiny", "recipe: nowhere"), (), "nowhere is neither a YAML file"),
        (("[1, 2, 4, 8]", "[1, 2, 4]"), (), "the sweep has 3 releases. A scaling law needs at least 4"),
        (("of: tokens, step: cpt", "of: setting"), (), "set axis.setting if"),
        (("[auc", "[auc"), ("cpt.train.stages.0.steps=3",), "what .* varies, so it cannot be set for all"),
        (("", ""), ("figures=[gain]",), "figures"),
    ],
)
def test_an_invalid_study_is_one_sentence(
    change: tuple[str, str], overrides: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        plan_study(read(tmp_path, STUDY.replace(*change), *overrides), tmp_path / "study", tmp_path / "steps")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("[ift, publish", "[ift, benchmark, publish"), "has no benchmark, whose figures the study compares"),
        (("step: cpt", "step: ift"), "axis.step is ift, which the release .* does not have"),
    ],
)
def test_a_step_that_the_study_needs_is_missing(change: tuple[str, str], sentence: str, tmp_path: Path) -> None:
    study = read(tmp_path, SMALL.replace("[1, 2]", "[1]").replace(*change))
    with pytest.raises(UserError, match=sentence):
        plan_study(study, tmp_path / "study", tmp_path / "steps")


def test_a_study_without_versions_and_another_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"in no way \(none\)"):
        read(tmp_path, "question: Which?\n")
    with pytest.raises(UserError, match="is not the folder of a study"):
        redraw(tmp_path)
    with pytest.raises(UserError, match="models are measured by a probe on a data folder"):
        read(tmp_path, "question: Which?\nmodels: {a: b}\n")


SHIPPED = shipped_studies()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_studies_are_valid(name: str, tmp_path: Path) -> None:
    study = SHIPPED[name]
    assert study.config.question.endswith("?")
    if study.sweep is not None:
        last = dict(list(study.sweep.releases.items())[-1:])  # the releases of a study differ in a few settings
        config = replace(study.config, laws=False)
        study = replace(study, config=config, sweep=replace(study.sweep, releases=last))
        assert plan_study(study, tmp_path / "study", tmp_path / "steps")


def test_the_commands(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["study", "list"], terminal_width=200)
    assert listed.exit_code == 0, listed.output
    assert "history_length" in listed.output
    checked = CliRunner().invoke(app, ["study", "run", "tiny", "--check"])
    assert checked.exit_code == 0, checked.output
    assert "tiny-1: data, cpt, sft, benchmark" in checked.output
    refused = CliRunner().invoke(app, ["study", "plot", str(tmp_path)])
    assert refused.exit_code == 2
    assert "is not the folder of a study" in refused.output

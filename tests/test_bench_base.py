"""`make demo-base`: its steps, its table and its JSON file, with small commands in place of the product's."""

import io
import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench.base.__main__ import REPORTS, STEPS, parse, write_scratch_recipe
from bench.base.convert import CONVERSION, is_complete
from bench.base.parity import compare_prompts, long_prompts
from bench.base.result import MODELS, show, task_figures, write
from rich.console import Console

from brew_cluster.jobs.recipe import find_recipe
from brew_cluster.releases.steps import StepFailed, Steps
from brew_data.data_folder import DataFolder, DatasetInfo
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.prompts.tokenizer import Tokenizer
from brew_data.schema import micros, write_tables
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate
from brew_data.split import Split
from brew_platform.errors import DataError

from .base_tokenizers import write_base_tokenizer

APPEND = "import pathlib, sys; file = pathlib.Path(sys.argv[1]); file.open('a').write('x'); sys.exit(int(sys.argv[2]))"


def append(output: Path, code: int = 0) -> list[str]:
    return [sys.executable, "-c", APPEND, str(output), str(code)]


def make_steps(folder: Path) -> Steps:
    return Steps(folder / "steps", Console(quiet=True), ["first", "second"])


def test_finished_steps_are_skipped_and_keep_their_seconds(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    seconds = []
    for _ in range(2):
        steps = make_steps(tmp_path)
        assert steps.run("first", append(first), output=first) == first
        steps.run("second", append(second), output=second, after=["first"])
        assert (first.read_text(), second.read_text()) == ("x", "x")
        seconds.append({name: record.seconds for name, record in steps.records.items()})
    assert list(seconds[0]) == ["first", "second"]
    assert seconds[0] == seconds[1]
    assert all(record.peak_bytes > 0 for record in steps.records.values())


@pytest.mark.parametrize("change", ["command", "file", "output"])
def test_a_step_and_those_after_it_run_again_after_a_change(change: str, tmp_path: Path) -> None:
    first, second, recipe = tmp_path / "first", tmp_path / "second", tmp_path / "recipe.yaml"
    recipe.write_text("a: 1")

    def run(*options: str) -> tuple[int, int]:
        steps = make_steps(tmp_path)
        steps.run("first", [*append(first), *options], output=first, files=[recipe])
        steps.run("second", append(second), output=second, after=["first"])
        return first.stat().st_mtime_ns, second.stat().st_mtime_ns

    before = run()
    if change == "file":
        recipe.write_text("a: 2")
    if change == "output":
        second.unlink()
    after = run(*(["--other"] if change == "command" else []))
    assert (after[0] != before[0], after[1] != before[1]) == (change != "output", True)
    assert (first.read_text(), second.read_text()) == ("x", "x")  # earlier output is removed first


def test_a_failed_step_keeps_its_output_for_the_next_attempt_and_says_what_to_do(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(StepFailed, match="step first failed with exit code 3.*same command again"):
        make_steps(tmp_path).run("first", append(output, 3), output=output)
    assert output.read_text() == "x"
    record = json.loads((tmp_path / "steps" / "first.json").read_text())
    assert record["finished"] is False
    command = [sys.executable, "-c", APPEND, str(output), "3"]
    with pytest.raises(StepFailed):
        make_steps(tmp_path).run("first", command, output=output)
    assert output.read_text() == "xx"  # the second attempt keeps the output of the first
    assert json.loads((tmp_path / "steps" / "first.json").read_text())["seconds"] > record["seconds"]


WAIT = """
import pathlib, signal, sys, time
def stop(*_):
    pathlib.Path(sys.argv[1]).write_text("stopped")
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[2]).write_text("ready")
time.sleep(60)
"""


def test_an_interrupt_stops_the_command_and_the_step_is_unfinished(tmp_path: Path) -> None:
    stopped, ready = tmp_path / "stopped", tmp_path / "ready"

    def interrupt() -> None:
        while not ready.exists():
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        make_steps(tmp_path).run("first", [sys.executable, "-c", WAIT, str(stopped), str(ready)], output=stopped)
    thread.join()
    assert stopped.read_text() == "stopped"
    assert json.loads((tmp_path / "steps" / "first.json").read_text())["finished"] is False


def report(auc: float, digest: str = "d") -> dict[str, Any]:
    return {
        "sample": {"rows_digest": digest},
        "tasks": {"movie_rating": {"rows": 2000, "auc": auc, "baseline_auc": 0.6, "best_auc": None}},
    }


def test_the_figures_of_a_task_come_from_four_reports_on_the_same_rows() -> None:
    reports = {name: report(0.6 + i / 100) for i, name in enumerate(MODELS)}
    assert task_figures(reports) == {
        "movie_rating": {
            "rows": 2000, "zero_shot_auc": 0.6, "cpt_auc": 0.61, "sft_auc": 0.62, "from_scratch_auc": 0.63,
            "baseline_auc": 0.6, "best_auc": None,
        }
    }  # fmt: skip
    with pytest.raises(DataError, match="different rows.*Run the benchmark again"):
        task_figures(reports | {"cpt": report(0.5, "other")})


def test_the_table_and_the_file_have_every_figure(tmp_path: Path) -> None:
    tasks = task_figures({name: report(0.6 + i / 100) for i, name in enumerate(MODELS)})
    content = {
        "movielens": {**tasks["movie_rating"], "tasks": tasks},
        "parity": {"prompts": 1, "compared": 20, "score": 1.5e-6, "scored": 8, "longest": 1000},
        "seconds": {"total": 1500.0},
        "peak_rss_gb": 7.5,
    }
    write(tmp_path / "out" / "base.json", content)
    assert json.loads((tmp_path / "out" / "base.json").read_text()) == content
    console = Console(record=True, width=140, file=io.StringIO())
    show(content, console)
    text = console.export_text()
    for shown in ("movie_rating", "2,000", "0.6000", "0.6100", "0.6200", "0.6300", "1.5e-06", "25.0 min", "7.5 GB"):
        assert shown in text


def test_the_model_from_scratch_has_the_recipe_of_the_demo_but_half_of_its_fine_tuning(tmp_path: Path) -> None:
    recipe = yaml.safe_load(write_scratch_recipe("movielens", tmp_path / "new" / "scratch.yaml").read_text())
    demo = yaml.safe_load(find_recipe("demo", "movielens").read_text())
    demo["train"]["stages"][-1]["steps"] //= 2
    assert recipe == {"bins": {"cpt": "${data}/bins", "sft": "${data}/bins"}, "train": demo["train"]}


def test_every_model_has_a_benchmark_step() -> None:
    assert tuple(REPORTS) == MODELS
    assert set(REPORTS.values()) <= set(STEPS)


def test_quick_and_validation_runs_have_their_own_folders_and_files() -> None:
    options = parse(["--quick", "--validation", "--only", "movielens"])
    assert options.folder == Path("runs/base-validation-quick")
    assert options.out == Path("bench/out/base-validation-quick.json")
    assert options.rows == options.synthetic_rows == 60
    assert options.only == ["movielens"]
    assert parse([]).only == ["synthetic", "movielens"]


def test_a_conversion_is_complete_only_with_unchanged_files(tmp_path: Path) -> None:
    assert not is_complete(tmp_path / "absent")
    (tmp_path / "config.json").write_text("{}")
    assert not is_complete(tmp_path)
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of {}
    (tmp_path / CONVERSION).write_text(json.dumps({"files": {"config.json": digest}}))
    assert is_complete(tmp_path)
    (tmp_path / "config.json").write_text("{ }")
    assert not is_complete(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    """A data folder with the suite of the synthetic graph and a small tokenizer like Gemma's."""
    tables = generate(SyntheticConfig(members=20, jobs=20, posts=20, interactions_per_member=40))
    write_base_tokenizer("gemma3", tmp_path)
    bundle = PromptBundle(
        suite=load_suite("bench/base/suites/economic_graph"),
        format=PromptFormat(context_length=8192, head_tokens=512, question_tokens=512),
        tokenizer=Tokenizer.from_model(tmp_path),
    )
    folder = tmp_path / "data"
    write_tables(tables, folder / "tables")
    bundle.save(folder / "prompts")
    until = micros(tables.interactions).to_pylist()[-1]
    DatasetInfo(
        source="synthetic", split=Split(train_until=until - 1, until=until), has_true_probabilities=True,
        config_digest="c", prompt_digest=bundle.digest, commit=None,
    ).write(folder)  # fmt: skip
    return DataFolder.open(folder)


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
def test_prompts_are_compared_on_four_paths(data: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    compared, same = compare_prompts(data, members=3)
    assert (compared, same) == (3, 3)
    # A path that renders other ids is found.
    monkeypatch.setattr("bench.base.parity._bodies", lambda tables, earlier, row, task: [
        {"task": task, "member_id": row["member_id"], "candidates": [{"id": "x", "fields": {"title": "other"}}]}
    ])  # fmt: skip
    compared, same = compare_prompts(data, members=2)
    assert (compared, same) == (2, 0)


def test_prompts_of_the_score_comparison_have_different_lengths(data: DataFolder) -> None:
    compiler, task, prompts = long_prompts(data, context=10_000, count=5)
    assert compiler.format.context_length == 10_000
    assert task == "job_apply"
    lengths = [len(prefix) + len(question) for prefix, question in prompts]
    assert len(set(lengths)) == 5
    assert max(lengths) > 1.5 * min(lengths)


def test_the_suites_of_the_base_model_have_the_tasks_of_the_demo() -> None:
    for name in ("economic_graph", "movielens"):
        ours, demo = load_suite(f"bench/base/suites/{name}"), load_suite(name)
        assert [(task.name, task.surface, task.positive) for task in ours.tasks] == [
            (task.name, task.surface, task.positive) for task in demo.tasks
        ]

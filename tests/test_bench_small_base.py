"""`make base-model`: its steps and folders, its table and its card, without training."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.small_base.__main__ import RECIPES, RUNS, SIZES, TASKS, Pipeline, parse, stage_steps
from bench.small_base.card import CARD, README, write_card
from bench.small_base.knowledge import FILES, write_knowledge
from bench.small_base.model_folders import base_folder, tokens_of, write_tokenizer
from bench.small_base.result import curve_point, gap_closed, show
from bench.small_base.task_subset import SHORT, SUITE, write_subset
from rich.console import Console
from safetensors.torch import save_file

from brew_cluster.jobs.dataset_config import load_dataset_config
from brew_cluster.jobs.demo_config import load_recipe
from brew_cluster.jobs.train import load_job
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.prompts.tokenizer import Tokenizer, train_tokenizer
from brew_data.sources.economic_graph.config import EconomicGraphConfig
from brew_data.sources.economic_graph.vocabulary import INDUSTRIES
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import DataError, UserError
from brew_train.config import ModelConfig

DATA = (*RUNS, "tokenizer", "unseen")
PATHS = {
    "knowledge": [
        "corpora.facts.sources.facts.path=facts.jsonl",
        *(f"corpora.named.sources.{file}.path={file}.jsonl" for file in FILES[1:3]),
        *(f"corpora.reactions.sources.{file}.path={file}.jsonl" for file in FILES[1:4]),
        *(f"corpora.interests.sources.{file}.path={file}.jsonl" for file in FILES[3:]),
    ],
    "short": [f"corpora.mixed.sources.{file}.path={file}.jsonl" for file in FILES[3:]],
}


@pytest.mark.parametrize("name", DATA)
def test_the_data_recipes_load_and_differ_in_their_members(name: str) -> None:
    recipes = {other: load_dataset_config(str(RECIPES / f"{other}_data.yaml"), PATHS.get(other, ())) for other in DATA}
    demo = load_recipe("economic_graph", [], recipe=RECIPES / "demo_economic_graph.yaml")
    seeds = [*(config.source_config.seed for config in recipes.values()), demo.source_config.seed]
    assert len(set(seeds)) == len(seeds)
    # A model reads prompts of the context that it was trained with.
    assert recipes[name].prompt == demo.prompt


@pytest.mark.parametrize("name", RUNS)
def test_the_training_recipes_load(name: str) -> None:
    job = load_job(str(RECIPES / f"{name}.yaml"), ["data=data", "run=run"])
    data = load_dataset_config(str(RECIPES / f"{name}_data.yaml"), PATHS.get(name, ()))
    assert set(job.bins) == {stage.name for stage in job.train.stages}
    assert {Path(folder).name for folder in job.bins.values()} <= {"bins", *data.corpora}
    assert set(job.evaluation) == {stage.name for stage in job.train.stages if stage.evaluate_every}


def test_a_share_shortens_all_stages() -> None:
    whole, share = (stage_steps("knowledge", parse(arguments)) for arguments in ([], ["--share", ".1"]))
    assert share == [steps // 10 for steps in whole]
    assert stage_steps("short", parse(["--quick"])) == [2]


@pytest.mark.parametrize("size", SIZES)
def test_a_size_fits_into_ten_megabytes(size: str) -> None:
    model = ModelConfig(**SIZES[size])
    hidden, kv = model.hidden_size, model.hidden_size * model.kv_heads // model.heads
    attention = 2 * hidden * hidden + 2 * hidden * kv
    experts = model.experts * (3 * hidden * model.intermediate_size + hidden)
    parameters = 4_096 * hidden + model.layers * (attention + experts + 2 * hidden) + hidden
    assert 2 * parameters < 9_500_000  # bytes in bfloat16; the tokenizer has a few hundred thousand


def test_one_task_of_each_surface_is_measured() -> None:
    suite = load_suite(SUITE)
    measured = [task for task in suite.tasks if task.name in TASKS]
    assert len(measured) == len(TASKS)
    assert sorted(task.surface for task in measured) == sorted(surface.name for surface in suite.surfaces)
    assert all(task.follows_surface for task in measured)


def test_the_demo_has_a_gate_for_each_task_of_its_suite(tmp_path: Path) -> None:
    suite = write_subset(tmp_path / "suite", TASKS)
    demo = load_recipe("economic_graph", [f"suite={suite}"], recipe=RECIPES / "demo_economic_graph.yaml")
    tasks = {task.name: task.in_training for task in load_suite(suite).tasks}
    assert {gate.figure: gate.at_least for gate in demo.release.gates} == {
        f"{name}.{'gap_closed' if trained else 'gain'}": 0.5 if trained else 0.0 for name, trained in tasks.items()
    }


def test_the_long_stages_train_on_whole_histories_only(tmp_path: Path) -> None:
    full, subset = load_suite(SUITE), load_suite(write_subset(tmp_path / "suite"))
    assert not any(task.trains_on_examples for task in subset.tasks if task.in_training)
    assert subset.trained_surfaces == full.trained_surfaces
    assert {task.name for task in full.tasks} - {task.name for task in subset.tasks} == {
        task.name for task in full.tasks if task.trains_on_examples and task.in_training
    }
    assert "percentile" in (tmp_path / "suite" / "suite.yaml").read_text()
    raw = load_suite(write_subset(tmp_path / "raw", numbers="raw"))
    assert "percentile" not in (tmp_path / "raw" / "suite.yaml").read_text()
    assert [task.name for task in raw.tasks] == [task.name for task in subset.tasks]
    with pytest.raises(UserError, match="no task job_aply"):
        write_subset(tmp_path / "other", ["job_aply"])


def test_a_short_suite_shows_the_short_fields_in_one_form(tmp_path: Path) -> None:
    suite = load_suite(write_subset(tmp_path / "suite", texts="short"))
    assert {name: tuple(template.shown) for name, template in suite.entities.items()} == {
        name: tuple(frozenset(fields)) for name, fields in SHORT.items()
    }
    text = "".join(path.read_text() for path in (tmp_path / "suite").rglob("*.yaml"))
    assert "alternatives" not in text
    assert "percentile" not in text


def test_knowledge_says_what_the_generator_knows(tmp_path: Path) -> None:
    suite = load_suite(write_subset(tmp_path / "suite", texts="short"))
    config = EconomicGraphConfig(seed=5, members=60)
    for name in ("first", "again"):
        write_knowledge(tmp_path / name, suite, config, conversations=40, seed=1)
    seen = set()
    for name in FILES:
        text = (tmp_path / "first" / f"{name}.jsonl").read_text()
        assert text == (tmp_path / "again" / f"{name}.jsonl").read_text()
        rows = [json.loads(line)["messages"] for line in text.splitlines()]
        assert len(rows) == 40
        for messages in rows:
            roles = [message["role"] for message in messages if message["role"] != "member"]
            assert roles == ["system", *["user", "assistant"] * (len(roles) // 2)]
            assert (messages[1]["role"] == "member") == (name != "facts")
            seen |= {message["content"].split("\n")[0] for message in messages if message["role"] == "user"}
    surfaces = {surface.name: surface.question[0] for surface in suite.surfaces}
    assert seen == {"member", *(surfaces[name] for name in suite.trained_surfaces)}  # and nothing of T2
    # In conversations with names, the answer says whether a fact is the member's, and the reaction follows from it.
    for line in (tmp_path / "first" / "named.jsonl").read_text().splitlines():
        answers = [m["content"] for m in json.loads(line)["messages"] if m["role"] == "assistant"]
        industry = answers[0].split(", ")[0]
        for answer in answers[1:]:
            facts, reaction = answer.split(": ")
            fact, has = facts.split(", ")[0].rsplit(" ", 1)
            if fact in INDUSTRIES:
                assert has == ("yes" if fact == industry else "no")
                assert (has == "yes") == (reaction not in ("skip", "ignore"))


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """An export with prompts, as training writes it, with weights of one small tensor."""
    folder = tmp_path / "export"
    bundle = PromptBundle(
        suite=load_suite(SUITE),
        format=PromptFormat(context_length=1024, head_tokens=160, question_tokens=96),
        tokenizer=train_tokenizer(["a job in köln", "\u2028 a post \x7f\t <b>"] * 20, vocabulary_size=300),
    )
    bundle.save(folder)
    save_file({"model.norm.weight": torch.ones(4, dtype=torch.bfloat16)}, folder / "model.safetensors")
    config = {"architectures": ["MixtralForCausalLM"], "num_hidden_layers": 6, "hidden_size": 192,
              "num_attention_heads": 6, "vocab_size": 300, "max_position_embeddings": 1024}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text("{}")
    return folder


def test_data_that_are_built_with_the_tokenizer_fit_the_base_model(exported: Path, tmp_path: Path) -> None:
    tokenizer = write_tokenizer(exported, tmp_path / "tokenizer")
    model = base_folder(exported, tmp_path / "model", tokenizer=tokenizer)
    assert {path.name for path in model.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    earlier = PromptBundle.load(exported)
    for source in (tokenizer, model):
        data = PromptBundle(suite=earlier.suite, format=earlier.format, tokenizer=Tokenizer.from_model(source))
        data.require_model(model)
        text = "a job in köln \u2028"
        assert data.tokenizer.encode(text) == earlier.tokenizer.encode(text)
        assert data.tokenizer.role_ids == earlier.tokenizer.role_ids
        # The same after the data were written and read, and after a second training on them.
        data.save(tmp_path / "prompts")
        PromptBundle.load(tmp_path / "prompts").require_model(model)


def test_a_repeated_step_counts_once(tmp_path: Path) -> None:
    rows = [{"step": 1, "tokens": 10}, {"step": 2, "tokens": 20}, {"step": 2, "tokens": 20}, {"event": "end"}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"step": 3, "tokens": 5}])))
    assert [tokens_of(tmp_path, until=step) for step in (1, 2, None)] == [10, 30, 35]


def point(auc: float, digest: str = "d") -> dict[str, Any]:
    tasks = {"job_apply": True, "article_read": False}
    figures = {"rows": 1_000, "auc": auc, "baseline_auc": 0.5, "best_auc": 0.8, "gap_closed": (auc - 0.5) / 0.3}
    return curve_point(
        model="medium",
        point="step 500",
        tokens=2_048_000,
        report={"sample": {"rows": 5_000, "rows_digest": digest}, "tasks": dict.fromkeys(tasks, figures)},
        regressions={
            name: {"is_trained": trained, "matches": 0.61, "text": 0.66, "history": 0.72}
            for name, trained in tasks.items()
        },
    )


def test_the_table_has_every_point() -> None:
    points = [point(0.62), point(0.68)]
    assert gap_closed(points[1], is_trained=False) == pytest.approx(0.6)
    console = Console(record=True, width=180, file=io.StringIO())
    show(points, console)
    text = console.export_text()
    for shown in ("job_apply", "T1", "article_read", "T2", "1,000", "0.610", "0.720", "0.620", "0.680", "2.0M tokens"):
        assert shown in text
    with pytest.raises(DataError, match="different rows.*--fresh"):
        show([points[0], point(0.6, "other")], console)


def test_the_card_says_what_the_model_has_seen(exported: Path) -> None:
    figures = {
        "stages": [{"name": "cpt", "recipe": "histories.yaml", "loss": "all tokens", "tokens": 6_144_000}],
        "seeds": [101, 102], "measured_seed": 900, "trained": ["feed", "jobs"], "unseen": ["ads"],
        "seconds": 7_200.0, "parameters": 4_112_832, "machine": "two cores", "versions": {"torch": "2.13.0"},
        "date": "2026-11-30", "commit": "abc",
    }  # fmt: skip
    text = write_card(exported, figures, point(0.68))
    assert (exported / README).read_text() == text
    for shown in (
        "6,144,000",
        "seeds 101, 102",
        "seed 900",
        "feed, jobs",
        "ads",
        "2.0 hours",
        "5,000",
        "| job_apply | T1 |",
    ):
        assert shown in text
    card = json.loads((exported / CARD).read_text())
    assert card["digest"] in text
    assert card["measured"]["tasks"]["article_read"]["gap_closed"] == pytest.approx(0.6)


def test_runs_of_other_kinds_have_their_own_folders_and_files(capsys: pytest.CaptureFixture[str]) -> None:
    options = [parse(arguments) for arguments in ([], ["--share", ".1"], ["--numbers", "raw"], ["--quick"])]
    assert [str(found.folder) for found in options] == [
        "runs/base-model", "runs/base-model-share-0.1", "runs/base-model-raw", "runs/base-model-quick",
    ]  # fmt: skip
    assert [found.out.name for found in options] == [
        "small_base.json", "small_base-share-0.1.json", "small_base-raw.json", "small_base-quick.json",
    ]  # fmt: skip
    assert options[0].size == ["medium"]
    for share in ("0", "1.5"):
        with pytest.raises(SystemExit):
            parse(["--share", share])
        assert "above 0 and at most 1" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--size", "small", "--size", "wide"], ["--demo"], ["--quick", "--demo"]])
def test_every_step_that_runs_is_announced(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr("bench.small_base.__main__._context", lambda data: 1024)
    monkeypatch.setattr("bench.small_base.__main__.tokens_of", lambda run: 1)
    monkeypatch.setattr("bench.small_base.__main__._read", lambda path: {})
    monkeypatch.setattr("bench.small_base.__main__.curve_point", lambda **figures: figures)

    def record(pipeline: Pipeline) -> Callable[..., Path]:
        def run(name: str, command: list[str], *, output: Path, after: Sequence[str] = (), **_: Any) -> Path:
            assert set(after) <= set(ran)
            assert all(isinstance(argument, str) for argument in command)
            ran.append(name)
            return output

        return run

    pipeline = Pipeline(parse([*arguments, "--folder", str(tmp_path)]), PlainConsole())
    monkeypatch.setattr(pipeline.steps, "run", record(pipeline))
    data, tokenizer, unseen = pipeline.data()
    regressions = pipeline.regressions()
    for size in pipeline.options.size:
        model, points = pipeline.curve(size, data, tokenizer, unseen, regressions)
        assert [point["point"] for point in points] == list(RUNS)
        assert points[-1]["tokens"] == len(RUNS)
    if pipeline.options.demo:
        pipeline.demo(model)
    assert ran == pipeline.names

"""Follows docs/how-to/add-an-engine.md: builds the package in a temporary folder and scores a request with it."""

import math
import runpy
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file, save_file

from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import Entity, PastInteraction, PromptFormat
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import Action, Surface, TaskSpec
from brew_data.prompts.templates import RecordTemplate
from brew_data.prompts.tokenizer import train_tokenizer
from brew_platform.config import load_config
from brew_platform.errors import ConfigError, UserError
from brew_serve.engines.base import Engine, Sampling, generate
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.registry import create_engine, engine_kinds
from brew_serve.ranking.scoring import Scorer
from brew_serve.version import LoadedVersion, load_version

from ..serve.engines import test_engines as contract

JOBS = [(f"job{i}", Entity(entity_type="job", fields={"title": title})) for i, title in enumerate(("nurse", "cook"))]


@pytest.fixture
def package(page_files: Callable[[str, Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package of the page, on sys.path with the metadata that `pip install` writes."""
    folder = page_files("docs/how-to/add-an-engine.md", tmp_path / "package")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    metadata = folder / "brew_bigram-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    [(group, entries)] = project["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "brew_bigram"]:
        del sys.modules[name]


@pytest.fixture
def version(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedVersion:
    """The model that the script of the page writes, for a suite with one task."""
    suite = TaskSuite(
        name="tiny",
        profile=RecordTemplate(fields=["title"], phrases=["{{ title }}"]),
        entities={"job": RecordTemplate(fields=["title"], phrases=["{{ title }}"])},
        surfaces=[
            Surface(
                name="jobs",
                entity_type="job",
                question=["job"],
                actions=[Action(name="apply", label="apply"), Action(name="skip", label="skip")],
            )
        ],
        tasks=[
            TaskSpec(
                name="job_apply",
                surface="jobs",
                instruction="Predict whether the member applies.",
                positive=["apply"],
                history=HistoryPolicy(surfaces=["jobs"], max_interactions=4),
            )
        ],
    )
    tokenizer = train_tokenizer(
        ["job nurse apply", "job cook skip", "Predict whether the member applies."] * 50, vocabulary_size=320
    )
    bundle = PromptBundle(suite=suite, format=PromptFormat(context_length=384), tokenizer=tokenizer)
    bundle.save(tmp_path / "data/synthetic/prompts")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(package / "make_model.py"))
    return load_version(tmp_path / "models/bigram")


@pytest.fixture
def engine(package: Path, version: LoadedVersion) -> Engine:
    recipe = yaml.safe_load((package / "recipe.yaml").read_text())["engine"]
    return create_engine(
        version.folder, load_config(EngineConfig, recipe, {"max_model_len": version.engine.max_model_len})
    )


async def test_the_engine_of_the_page_ranks_candidates(engine: Engine, version: LoadedVersion) -> None:
    assert "bigram" in engine_kinds()
    scorer = Scorer(engine, version.compiler)
    past = [PastInteraction(entity=JOBS[0][1], surface="jobs", action="apply", timestamp=1)]
    ranking = await scorer.rank(version.suite.task("job_apply"), {"title": "nurse"}, past, JOBS)
    assert {candidate.id for candidate in ranking.candidates} == {"job0", "job1"}
    prompt = scorer.compile_prompts(version.suite.task("job_apply"), {"title": "nurse"}, past, JOBS)
    last = prompt.questions[0][0][-1]
    table = load_file(version.folder / "model.safetensors")["bigram"].astype(float)
    apply, skip = (
        table[last, version.compiler.labels(version.suite.task("job_apply"))[name][0]] for name in ("apply", "skip")
    )
    for candidate in ranking.candidates:  # every question ends with the same token
        assert candidate.score == pytest.approx(1 / (1 + math.exp(skip - apply)), abs=1e-6)


async def test_the_engine_of_the_page_keeps_the_contract(engine: Engine, version: LoadedVersion) -> None:
    await contract.test_probabilities_of_the_whole_vocabulary_sum_to_one(engine, version)
    await contract.test_the_result_has_the_order_of_the_target_ids(engine)
    await contract.test_the_longest_prompt_is_answered_and_a_longer_one_refused(engine, version)
    await contract.test_invalid_requests_are_refused(engine)
    before = engine.usage
    text = await generate(engine, [2, 30], Sampling(max_tokens=6, temperature=0))
    assert (len(text.ids), text.finish) == (6, "length")
    assert engine.usage.prompts == before.prompts + 1
    [first] = await engine.next_token_logprobs([2, 30], text.ids[:1])
    assert text.logprobs[0] == first
    with pytest.raises(UserError, match="greedily only"):
        await generate(engine, [2], Sampling(max_tokens=2))


def test_an_unknown_engine_is_refused_with_the_installed_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine\.kind is 'bigrm', but .* \(installed: .*torch, vllm\)"):
        create_engine(tmp_path, EngineConfig(kind="bigrm"))


def test_the_engine_of_the_page_refuses_a_folder_without_its_tensor(engine: Engine, version: LoadedVersion) -> None:
    save_file(
        {"weights": load_file(version.folder / "model.safetensors")["bigram"]}, version.folder / "model.safetensors"
    )
    with pytest.raises(UserError, match="has no tensor bigram"):
        create_engine(version.folder, EngineConfig(kind="bigram"))

"""Which steps a change runs again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from brew_cluster.releases.config import SECTIONS, read_release
from brew_cluster.releases.plan import Step, plan_release
from brew_cluster.releases.release import Release

NAMES = list(SECTIONS)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The keys of the tiny release."""
    return keys(plan_release(read_release("tiny"), tmp_path_factory.mktemp("steps")))


def keys(steps: list[Step]) -> dict[str, str]:
    return {step.name: step.key for step in steps}


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("data.tokenizer.vocabulary_size=700", "data"),
        ("cpt.train.stages.0.steps=11", "cpt"),
        ("ift.train.seed=1", "ift"),
        ("sft.train.stages.0.learning_rate=0.002", "sft"),
        ("benchmark.engine.max_model_len=128", "benchmark"),
        ("publish.author=ana", "publish"),
        ("gates.0.at_least=0.02", "publish"),  # the gates are a part of the version
        ("canary.share=0.3", "canary"),
        ("promote.alias=staging", "gates"),  # they compare with the version of the alias
    ],
)
def test_a_changed_setting_changes_the_steps_from_it_on(
    override: str, first: str, before: dict[str, str], make_release: Callable[..., Release]
) -> None:
    after = keys(list(make_release(override).steps))
    assert list(before) == NAMES
    assert [name for name in NAMES if before[name] != after[name]] == NAMES[NAMES.index(first) :]


def test_the_folder_of_the_steps_does_not_count(before: dict[str, str], tmp_path: Path) -> None:
    second = plan_release(read_release("tiny"), tmp_path / "b")
    assert keys(second) == before
    assert {step.folder.parent for step in second} == {tmp_path / "b"}


@pytest.mark.parametrize("changed", ["recipe", "suite", "path"])
def test_the_content_of_files_counts(changed: str, tmp_path: Path) -> None:
    from brew_data.prompts.suite import SUITES

    suite = tmp_path / "suites" / "own"
    suite.parent.mkdir()
    for file in (SUITES / "movielens").rglob("*.yaml"):
        target = suite / file.relative_to(SUITES / "movielens")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.read_text())
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "u.data").write_text("1")
    data = tmp_path / "data.yaml"
    text = f"source: movielens\npath: {tmp_path}/films\nsuite: {suite}\nsplit: {{train_share: 0.8}}\n"
    text += "prompt: {context_length: 512}\n"
    data.write_text(text)
    release = tmp_path / "release.yaml"
    release.write_text(f"data: {{recipe: {data}}}\nsft: {{train: {{workers: 1}}}}\n")

    def plan() -> dict[str, str]:
        return keys(plan_release(read_release(str(release)), tmp_path / "steps"))

    before = plan()
    assert plan() == before
    if changed == "recipe":
        data.write_text(f"{text}slates: true\n")
    elif changed == "suite":
        (suite / "suite.yaml").write_text((suite / "suite.yaml").read_text() + "# a comment\n")
    else:
        (tmp_path / "films" / "u.data").write_text("2")
    after = plan()
    assert before["data"] != after["data"]
    assert before["sft"] != after["sft"]


def test_training_starts_from_the_step_before_and_first_from_the_base_model(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    steps = {step.name: step for step in plan_release(read_release("tiny", [f"from={base}"]), tmp_path / "steps")}
    assert f"tokenizer.from={base}" in steps["data"].command
    assert f"train.model.init_from={base}" in steps["cpt"].command
    assert "train.model.init_from=<cpt>/export" in steps["ift"].command
    assert "train.model.init_from=<ift>/export" in steps["sft"].command
    scratch = {step.name: step for step in plan_release(read_release("tiny"), tmp_path / "steps")}
    assert "train.model.init_from=null" in scratch["cpt"].command
    (base / "config.json").write_text("{ }")
    changed = {step.name: step for step in plan_release(read_release("tiny", [f"from={base}"]), tmp_path / "steps")}
    assert changed["cpt"].key != steps["cpt"].key

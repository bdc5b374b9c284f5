"""Reading a release recipe: what is refused, with which sentence."""

import re
from pathlib import Path

import pytest

from brew_cluster.releases.config import SECTIONS, read_release
from brew_cluster.releases.plan import plan_release
from brew_cluster.releases.sweep import plan_sweep, read_sweep
from brew_platform.errors import BrewError, UserError

DATA = "data: {recipe: synthetic}\n"
SFT = "sft: {train: {workers: 1}}\n"
ENDING = "benchmark: {rows: 5}\npublish: {}\n"


def plan(text: str, tmp_path: Path, *overrides: str) -> list[str]:
    path = tmp_path / "release.yaml"
    path.write_text(text)
    return [step.name for step in plan_release(read_release(str(path), overrides), tmp_path / "steps")]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("date: {recipe: synthetic}\n", "unknown section date. Sections are name, from, data"),
        (SFT + DATA, "section data after sft, but steps run in the order data, cpt, ift, sft"),
        (SFT, "no section data"),
        ("name: a\n", "has no step"),
        (DATA + "gates: [{figure: job_apply.auc, at_least: 0.5}]\n", "gates without benchmark"),
        (DATA + "benchmark: {}\n", "neither a training step nor `from`"),
        (DATA + SFT + "promote: {}\n", "promote without publish"),
        (DATA + SFT + ENDING + "gates: []\n", "gates is empty"),
        (DATA + SFT + ENDING + "gates: [{figure: job_apply.auk, at_least: 0.5}]\n", "does not have the figure 'auk'"),
        (DATA + SFT + ENDING + "gates: [{figure: job_apply.auc}]\n", "has no threshold"),
        ("data: {recipe: synthetic, tokeniser: {}}\n", "section data: unknown key tokeniser"),
        ("data: {folder: nowhere}\n", "section data: nowhere is not a folder"),
        ("data: {folder: nowhere, recipe: synthetic}\n", "`folder` beside settings"),
        ("data: {}\n", "neither a `recipe` nor a `folder`"),
        ("data: {recipe: movielens, path: nowhere}\n", "path is nowhere, which does not exist"),
        ("data: 3\n", "data in .*release.yaml is not a section"),
        ("from: nowhere\n" + DATA, "from is nowhere, which is not the folder of a model"),
        (DATA + "sft: {recipe: nowhere.yaml}\n", "section sft: nowhere.yaml is neither a YAML file nor"),
        (DATA + "sft: {train: {wrokers: 1}}\n", "section sft: unknown key train.wrokers"),
        (
            "data: {recipe: synthetic, pairs: 0}\nift: {train: {workers: 1}}\n",
            "section ift: the stage ift reads the bins pairs.*Set data.pairs",
        ),
        (DATA + "sft: {train: {model: {init_from: nowhere}}}\n", "init_from is nowhere, which does not exist"),
        (DATA + SFT + "benchmark: {tasks: [job_aply]}\n", "section benchmark: tasks names 'job_aply'"),
        (DATA + SFT + "benchmark: {row: 5}\n", "section benchmark: unknown key row"),
        (DATA + SFT + ENDING + "canary: {share: 2}\n", "canary.share is 2.*more than 0 and at most 1"),
        (DATA + SFT + ENDING + "canary: {required: true}\n", "it is required, but has no url"),
        (DATA + SFT + "publish: {}\npromote: {}\n", "section promote: the release does not have a benchmark"),
        (DATA + SFT + "publish: {registry: 'gs://a'}\n", "the scheme gs:// is not supported"),
        (DATA + SFT + "publish: {model: ../a}\n", "publish.model is '../a'; give letters"),
        ("name: ../a\n" + DATA, "'../a' is not a valid release name|'\"../a\"'"),
    ],
)
def test_an_invalid_recipe_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(BrewError, match=sentence):
        plan(text, tmp_path)
    assert not (tmp_path / "steps").exists()


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("steps=3", "not of the form section.key=value"),
        ("canary.share=0.1", "of the section canary, which .* does not have"),
        ("sft.train.stages.7.steps=3", "section sft: the override .* names element '7' of a list of 1"),
        ("without=[cpt]", r"without=\[cpt\] is not a list of sections of .*; its sections are data, sft"),
        ("without=sft", "is not a list of sections"),
        ("data.prompt.context_length=many", "section data: prompt.context_length='many'"),
    ],
)
def test_an_invalid_override_is_one_sentence(override: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        plan(DATA + SFT, tmp_path, override)


def test_steps_can_be_left_out(tmp_path: Path) -> None:
    assert plan(DATA, tmp_path) == ["data"]
    assert plan(DATA + SFT + ENDING + "promote: {}\n", tmp_path) == ["data", "sft", "benchmark", "publish", "promote"]
    forced = DATA + SFT + "publish: {}\npromote: {force_reason: the first version}\n"
    assert plan(forced, tmp_path) == ["data", "sft", "publish", "promote"]


def test_sections_are_left_out_with_their_settings(tmp_path: Path) -> None:
    sft = SFT.replace("sft", "cpt") + SFT
    assert plan(DATA + sft, tmp_path, "without=[cpt]", "cpt.train.seed=3") == ["data", "sft"]
    (tmp_path / "release.yaml").write_text(DATA + sft)
    release = read_release(str(tmp_path / "release.yaml"), ["without=[cpt]"])
    assert release.settings["without"] == "cpt"
    gates = "gates: [{figure: job_apply.auc, at_least: 0.5}]\n"
    with pytest.raises(UserError, match="has publish without benchmark"):
        plan(DATA + SFT + ENDING + gates, tmp_path, "without=[benchmark]")


def test_texts_that_yaml_would_change_reach_the_command_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    path.write_text('data: {recipe: synthetic, privacy: {author_fields: [yes, 010, "a b", "#1", "${x}"]}}\n')
    (setting,) = read_release(str(path)).commands["data"].settings
    assert setting == 'privacy.author_fields=[yes, 010, "a b", "#1", "${x}"]'


def test_the_recipes_of_the_documentation_are_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/releases.md").read_text()
    for name, text in re.findall(r"^`(\w+\.yaml)`:\n\n```yaml\n(.*?)```", page, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text)
    base = tmp_path / "models/gemma-3-270m"
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    text = (tmp_path / "release.yaml").read_text().replace("shop.yaml", "synthetic").replace("s3://models", "models")
    (tmp_path / "release.yaml").write_text(text)
    releases = plan_sweep(read_sweep("sweep.yaml"), tmp_path / "sweep", tmp_path / "steps")
    names = [f"sweep-{name}" for name in ("1", "2", "3", "4", "seed-1", "no-cpt")]
    assert [release.recipe.name for release in releases] == names
    assert [step.name for step in releases[0].steps] == [name for name in SECTIONS if name != "ift"]
    assert len({step.key for release in releases for step in release.steps if step.name == "data"}) == 2

"""`brew360 cluster`: checks, plans and renders a definition, and refuses a broken one with sentences."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from brew_cluster.cli.main import app


def brew360(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["cluster", *arguments], env={"COLUMNS": "200"})
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.parametrize("definition", [[], ["laptop"], ["h100_512"]])
def test_check_accepts_the_definitions_that_ship(definition: list[str]) -> None:
    assert "is valid" in brew360("check", *definition)


def test_check_prints_all_problems() -> None:
    output = brew360("check", "h100_512", "gpus=100", "groups.train.image=cpu", code=2)
    assert "- the groups can grow to train 512" in output
    assert "- groups.train has GPUs, but the image cpu" in output
    assert "has 2 problems; correct the definition" in output


def test_a_definition_is_a_file_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    head = "{role: head, cpus: 1, memory_gib: 16}"
    path.write_text(f"name: mine\nray_version: 2.60.0\nimages: {{cpu: 'b:1'}}\ngroups: {{h: {head}}}")
    assert "mine is valid: 1 groups" in brew360("check", str(path))
    assert "unknown key grops" in brew360("check", str(path), "grops={}", code=2)
    assert "h100_512, laptop" in brew360("check", "nonsense", code=2)
    misspelled = brew360("check", "h100_512", "groups.trian.max_nodes=70", code=2)
    assert "names the group trian, but the groups of cluster_h100_512.yaml are head, data, train" in misspelled


def test_plan_shows_groups_programs_and_losses() -> None:
    output = brew360("plan", "h100_512")
    assert "GPUs: up to 576 of 576" in output
    assert "spare node" in output
    assert "256 of" not in output
    plan = json.loads(brew360("plan", "h100_512", "--json"))
    assert [group["name"] for group in plan["groups"]] == ["head", "data", "train", "nearline", "online"]


def test_render_writes_the_files_of_a_target(tmp_path: Path) -> None:
    output = brew360("render", "h100_512", "--to", "kuberay", "--out", str(tmp_path))
    for path in ("manifests/60-cluster.yaml", "serve.yaml", "jobs/train.yaml", "kuberay-operator-values.yaml"):
        assert path in output
        assert list(yaml.safe_load_all((tmp_path / path).read_text()))
    assert "cannot" not in output


def test_render_writes_nothing_for_a_broken_definition(tmp_path: Path) -> None:
    output = brew360("render", "h100_512", "gpus=1", "--out", str(tmp_path / "out"), code=2)
    assert "gpus is 1" in output
    assert not (tmp_path / "out").exists()


def test_only_this_machine_is_started() -> None:
    assert "Add --local" in brew360("up", "laptop", code=2)


def test_the_commands_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    [section] = re.findall(r"^## For the platform team.*?\n## ", readme, re.M | re.S)
    commands = re.findall(r"^brew360 cluster (.+?)(?: +#.*)?$", section, re.M)
    assert len(commands) == 6
    for command in commands:
        if command == "down" or "--local" in command:  # test_local_real.py runs these
            continue
        words, _, path = command.partition(" > ")
        output = brew360(*shlex.split(words))
        if path:
            Path(path).write_text(output)
    assert (tmp_path / "deploy/manifests/60-cluster.yaml").is_file()

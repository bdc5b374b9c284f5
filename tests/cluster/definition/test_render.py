"""The files of each target: `ray up` accepts its file, the chart gives the same manifests, old files are deleted."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import validate_config

from brew_cluster.definition.render import TARGETS, manifests, render, write_files
from brew_platform.errors import ConfigError

from .conftest import Loaded, find, load

ROOT = Path(__file__).parents[3]


def parsed(text: str) -> list[Any]:
    return list(yaml.safe_load_all(text))


@pytest.mark.parametrize("target", TARGETS)
def test_every_file_is_yaml_with_a_header(h100: Loaded, target: str) -> None:
    for path, text in render(*h100, target).items():
        assert text.startswith("# Rendered by `brew360 cluster render`")
        if path.endswith(".yaml") and not path.startswith("templates/"):
            assert all(isinstance(document, dict) for document in parsed(text)), path


def test_unknown_targets_are_refused(h100: Loaded) -> None:
    with pytest.raises(ConfigError, match="kuberay, helm, ray-up, local"):
        render(*h100, "nomad")


def test_manifests_are_applied_in_order(h100: Loaded) -> None:
    names = [path for path in render(*h100, "kuberay") if path.startswith("manifests/")]
    assert names == sorted(names)
    assert "00-namespace" in names[0]


def test_ray_up_accepts_the_file(h100: Loaded) -> None:
    [document] = parsed(render(*h100, "ray-up")["cluster.yaml"])
    validate_config({**document, "cluster_synced_files": []})
    types = document["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert (types["train"]["min_workers"], types["train"]["max_workers"]) == (32, 64)
    assert types["train"]["labels"]["brew360/role"] == "train"
    options = types["train"]["docker"]["worker_run_options"]
    assert "--device=/dev/infiniband" in options
    assert "-v /mnt/nvme/brew360:/mnt/local" in options
    assert "-e RAY_AUTH_MODE=token" in options
    assert document["max_workers"] == 32 + 64 + 2 + 6


@pytest.mark.parametrize(
    ("override", "words"),
    [("ray_up=null", "ray_up has no value"), ("groups.train.instance_type=null", "groups.train.instance_type")],
)
def test_ray_up_needs_machines(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        render(*load("h100_512", override), "ray-up")


def template(text: str, values: dict[str, Any]) -> str:
    """Evaluate the few expressions of the chart as Helm does."""

    def value(match: re.Match[str]) -> str:
        expression = match[1].strip()
        if expression == ".Release.Namespace":
            return "brew360"
        if indexed := re.fullmatch(r'\(index \.Values\.groups "(.+)"\)\.(\w+)', expression):
            return str(values["groups"][indexed[1]][indexed[2]])
        if expression == ".Values.jobGateway.replicas":
            return str(values["jobGateway"]["replicas"])
        image = re.fullmatch(r"\.Values\.images\.(\w+) \| quote", expression)
        assert image is not None, expression
        return f'"{values["images"][image[1]]}"'

    return re.sub(r"\{\{(.+?)\}\}", value, text)


def test_the_chart_gives_the_manifests(h100: Loaded, separate: Loaded, laptop: Loaded) -> None:
    for config, programs in (h100, separate, laptop):
        files = render(config, programs, "helm")
        [values] = parsed(files["values.yaml"])
        expected = manifests(config, programs)
        del expected["00-namespace"]
        for name, documents in expected.items():
            assert parsed(template(files[f"templates/{name}.yaml"], values)) == documents, name


def test_values_of_the_chart_change_images_and_sizes(h100: Loaded) -> None:
    files = render(*h100, "helm")
    [values] = parsed(files["values.yaml"])
    values["images"]["cuda"] = "other:2"
    values["groups"]["train"]["maxNodes"] = 40
    values["jobGateway"]["replicas"] = 3
    cluster = find(parsed(template(files["templates/60-cluster.yaml"], values)), "RayCluster")
    [train] = [group for group in cluster["spec"]["workerGroupSpecs"] if group["groupName"] == "train"]
    assert train["maxReplicas"] == 40
    assert train["template"]["spec"]["containers"][0]["image"] == "other:2"
    gateway = find(parsed(template(files["templates/75-job-gateway.yaml"], values)), "Deployment")
    assert gateway["spec"]["replicas"] == 3


def test_files_of_an_earlier_rendering_are_replaced(laptop: Loaded, tmp_path: Path) -> None:
    write_files(render(*laptop, "kuberay"), tmp_path)
    (tmp_path / "notes.yaml").write_text("mine: true\n")
    (tmp_path / "other.service").write_text("[Unit]\n")
    before = set(tmp_path.rglob("*.*"))
    write_files(render(*laptop, "local"), tmp_path)
    left = {path.name for path in tmp_path.rglob("*.*")}
    assert left == {"local.yaml", "notes.yaml", "other.service"}
    assert len(before) > 8


def test_renderings_below_the_folder_and_other_files_are_kept(laptop: Loaded, tmp_path: Path) -> None:
    write_files(render(*laptop, "kuberay"), tmp_path / "deploy")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    (tmp_path / "folder.yaml").mkdir()
    before = set(tmp_path.rglob("*"))
    write_files(render(*laptop, "local"), tmp_path)
    assert set(tmp_path.rglob("*")) == before | {tmp_path / "local.yaml"}


def test_a_file_that_was_not_rendered_is_not_overwritten(laptop: Loaded, tmp_path: Path) -> None:
    (tmp_path / "local.yaml").write_text("mine: true\n")
    with pytest.raises(ConfigError, match="was not rendered by brew360"):
        write_files(render(*laptop, "local"), tmp_path)
    assert (tmp_path / "local.yaml").read_text() == "mine: true\n"


def test_images_are_built_from_files_that_exist_with_the_pinned_versions() -> None:
    for kind in ("cpu", "cuda"):
        text = (ROOT / f"cluster/docker/{kind}.Dockerfile").read_text()
        for source in re.findall(r"^COPY (.+) \S+$", text, re.M):
            assert all((ROOT / path).exists() for path in source.split()), source
        assert f"-r requirements/{'cpu.txt' if kind == 'cpu' else 'others.txt'}" in text
        assert re.search(r"^USER 1000:1000$", text, re.M)
        assert "wget" in text  # KubeRay's probes call it

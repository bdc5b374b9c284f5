"""`brew360 cluster capacity`: tables, JSON, alternatives, plots, and one sentence for invalid input."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
import yaml
from typer.testing import CliRunner

from brew_cluster.capacity.bounds import Bounds
from brew_cluster.cli.commands import cluster_capacity
from brew_cluster.cli.views.capacity import bands_svg, format_bounds

RECIPE = {
    "context_length": 1_024,
    "vocabulary_size": 512,
    "train": {
        "model": {"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2, "kv_heads": 1, "experts": 8},
        "workers": 8,
        "checkpoint_every": 20,
        "sharding": {"reshard_after_forward": True, "activation_checkpointing": True},
        "stages": [{"name": "cpt", "steps": 100, "bins_per_step": 8}],
    },
}
CLUSTER = {
    "groups": {
        "head": {"role": "head", "cpus": 4, "memory_gib": 16},
        "small": {
            "role": "train", "cpus": 8, "memory_gib": 64, "gpus": 4, "gpu_type": "A100", "gpu_memory_gib": 40,
            "network_gbits_per_s": 400, "price_per_hour": 8, "nvlink_gbytes_per_s": 300, "image": "cuda",
        },
        "strange": {"role": "online", "cpus": 8, "memory_gib": 64, "gpus": 4, "gpu_type": "X9", "image": "cuda"},
    }
}  # fmt: skip

app = typer.Typer()
cluster_capacity.register(app)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a recipe and a cluster definition."""
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(CLUSTER))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["capacity", *arguments])
    assert done.exit_code == code, done.output
    return done.output


def figures(*arguments: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The quantities of each alternative, by name."""
    plans = json.loads(run(*arguments, "--json"))
    return {plan["alternative"]: {item["name"]: item for item in plan["quantities"]} for plan in plans}


def test_a_table_has_formulas_and_sources(folder: Path) -> None:
    text = run("train", "train.yaml", "--price", "2..4")
    for part in ("peak memory", "4 · parameters / shards", "goodput", "cost", "Daly 2006", "arXiv:1910.02054", "[1]"):
        assert part in text
    assert "cost" not in run("train", "train.yaml")


def test_alternatives_stand_side_by_side(folder: Path) -> None:
    plans = figures("train", "train.yaml", "--gpus", "8", "--gpus", "16", "--compare", "context_length=2048")
    assert list(plans) == ["8 GPUs", "8 GPUs, context_length=2048", "16 GPUs", "16 GPUs, context_length=2048"]
    assert plans["16 GPUs"]["tokens per step"]["low"] == 2 * plans["8 GPUs"]["tokens per step"]["low"]
    assert plans["16 GPUs"]["weights"]["low"] == pytest.approx(plans["8 GPUs"]["weights"]["low"] / 2, rel=0.01)
    longer = plans["8 GPUs, context_length=2048"]["activations"]["low"]
    assert longer == 2 * plans["8 GPUs"]["activations"]["low"]
    short, long = (figures("train", "train.yaml", "--document-length", str(n))["recipe"] for n in (64, 1_024))
    assert long["computation"]["low"] > short["computation"]["low"]


def test_counted_bytes_replace_the_formulas(folder: Path) -> None:
    formulas, counted = (figures("train", "train.yaml", *more)["recipe"] for more in ((), ("--dry-run",)))
    assert counted["all-gather"]["low"] == formulas["all-gather"]["low"]
    assert counted["peak memory"]["low"] == pytest.approx(formulas["peak memory"]["low"], rel=0.15)


def test_a_definition_sets_gpus_links_and_price(folder: Path) -> None:
    default = figures("train", "train.yaml")["recipe"]
    cluster = figures("train", "train.yaml", "--definition", "cluster.yaml")["recipe"]
    # an A100 has 312 TFLOP/s; four of them share a card of 400 Gb/s, and a node costs 8
    assert cluster["computation"]["low"] == pytest.approx(default["computation"]["low"] * 989 / 312)
    assert cluster["communication"]["high"] == pytest.approx(4 * default["communication"]["high"])
    assert cluster["cost"]["low"] == pytest.approx(2 * cluster["GPU-hours"]["low"])
    assert cluster["memory left"]["low"] < default["memory left"]["low"]


def test_a_service_is_planned_for_rates(folder: Path) -> None:
    options = ["serve", "h100", "engine.tensor_parallel_size=1", "gpus=1", "--model", "train.yaml"]
    plans = figures(*options, "--rate", "10", "--rate", "1000", "--price", "2")
    assert list(plans) == ["10 requests/s", "1000 requests/s"]
    assert plans["1000 requests/s"]["candidates/s"]["low"] == 100_000
    assert plans["10 requests/s"]["p99"]["high"] < 0.5
    measured = figures(*options, "--work-ms", "900..1000")["10 requests/s"]
    assert measured["replicas"]["high"] is None  # no number of replicas answers within 500 ms
    assert "never" in run(*options, "--work-ms", "900..1000")


def test_plots_are_drawn(folder: Path) -> None:
    run("train", "train.yaml", "--gpus", "8", "--gpus", "64", "--svg", "lost-time.svg")
    run("serve", "h100", "--model", "train.yaml", "--work-ms", "50..80", "--svg", "p99.svg")
    for name, bands in (("lost-time.svg", 2), ("p99.svg", 1)):
        root = ElementTree.parse(folder / name).getroot()
        assert len(root.findall("{http://www.w3.org/2000/svg}polygon")) == bands


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "nowhere"], "neither a YAML file nor a recipe"),
        (["train", "train.yaml", "--mfu", "1.5"], "--mfu is '1.5'; give a positive number up to 1"),
        (["train", "train.yaml", "--price", "-2"], "--price is '-2'"),
        (["train", "train.yaml", "--compare", "context=3"], "context_length"),
        (["train", "train.yaml", "train.sharding.replicas=2", "--gpus", "9"], "9 GPUs cannot hold 2 replicas"),
        (["train", "train.yaml", "--group", "a"], "pass --definition too"),
        (["train", "train.yaml", "--definition", "cluster.yaml", "--group", "a"], "has no group 'a'"),
        (["train", "train.yaml", "--definition", "cluster.yaml", "--group", "head"], "has no GPUs"),
        (["serve", "h100", "--model", "train.yaml", "--definition", "cluster.yaml"], "'X9'"),
        (["serve", "h100", "--model", "train.yaml", "--rate", "0"], "rate is 0.0"),
        (["serve", "h100", "--model", "train.yaml", "--cached", "2"], "cached is 2.0"),
    ],
)
def test_invalid_input_is_refused_in_a_sentence(folder: Path, arguments: list[str], sentence: str) -> None:
    assert sentence in run(*arguments, code=2)


@pytest.mark.parametrize(
    ("bounds", "unit", "text"),
    [
        (Bounds.exact(140.6e9), "", "140.6B"),
        (Bounds.exact(12), "", "12.0"),
        (Bounds(3_600, 10_800), "s", "1.0 to 3.0 h"),
        (Bounds(0.010, 0.020), "s", "10.0 to 20.0 ms"),
        (Bounds(1e9, 2e9), "bytes", "1.0 to 2.0 GB"),
        (Bounds(-2e9, 1e9), "bytes", "-2.0 to 1.0 GB"),
        (Bounds(0.25, 0.5), "share", "25.0% to 50.0%"),
        (Bounds(2, 3), "replicas", "2 to 3"),
        (Bounds(2, float("inf")), "replicas", "2 to never"),
        (Bounds.exact(float("inf")), "s", "never"),
        (Bounds.exact(0), "bytes", "0.0 B"),
    ],
)
def test_ranges_are_formatted(bounds: Bounds, unit: str, text: str) -> None:
    assert format_bounds(bounds, unit) == text


def test_a_plot_without_points_is_valid() -> None:
    assert ElementTree.fromstring(bands_svg("a & b", {"x": [[], []]}, x_name="x", y_name="y", top=1)) is not None

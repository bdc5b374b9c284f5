"""Four FSDP2 or HSDP processes compute the same as one, without unneeded communication."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from brew_platform.errors import UserError
from brew_train.checkpoints.export import export
from brew_train.checkpoints.export_template import ExportTemplate
from brew_train.checkpoints.manifest import Checkpoint
from brew_train.config import ModelConfig, ModelShape, ShardingConfig
from brew_train.distributed.context import DistributedContext
from brew_train.model.model import build_model
from brew_train.model.sharding import placement, shard

from ..checkpoint_state import state_of

GATHER, SCATTER, REDUCE = "_allgather_base_", "_reduce_scatter_base_", "allreduce_"
LAYERS = 2


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The figures that four processes measured (sharding_worker.py)."""
    out = tmp_path_factory.mktemp("sharding")
    worker = Path(__file__).with_name("sharding_worker.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    done = subprocess.run([*torchrun, str(worker), str(out)], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-5000:]
    return out


@pytest.fixture(scope="module")
def measured(out: Path) -> dict[str, Any]:
    return json.loads((out / "measured.json").read_text())


@pytest.mark.real
@pytest.mark.parametrize(
    ("case", "dims"),
    [
        ("fresh fsdp", [1, 1]),
        ("fresh fsdp frugal", [1, 1]),  # weights freed after forward, and activation checkpointing
        ("fresh hsdp", [1, 1]),
        ("fresh hsdp frugal", [1, 1]),
        ("inner fsdp", [2, 1]),  # gate_up_proj [4, 18, 16] and down_proj [4, 16, 9] over 4
        ("inner hsdp", [1, 1]),  # over 2
        ("padded fsdp", [0, 0]),  # [3, 18, 18] and [3, 18, 9]: nothing divides by 4
        ("padded hsdp", [1, 1]),
        ("gemma fsdp", []),  # no experts
        ("gemma hsdp", []),
        ("grown fsdp", [1, 1]),
        ("grown hsdp", [1, 1]),
    ],
)
def test_many_processes_compute_the_same_as_one(measured: dict[str, Any], case: str, dims: list[int]) -> None:
    found = measured["equal"][case]
    assert found["dims"] == dims
    assert found["weights"] == 0.0  # bitwise, drawn or read from a folder
    assert found["loss"] < 2e-6
    assert found["gradients"] < 1e-6 * max(1.0, found["scale"])
    assert found["scale"] > 0.1


@pytest.mark.real
def test_each_process_holds_only_its_shards_and_one_tensor(measured: dict[str, Any]) -> None:
    read, drawn = measured["largest"]["inner"], measured["largest"]["fresh"]
    assert read["allocated"] == read["shard"] < read["parameter"] / 3  # of 4 workers
    assert drawn["allocated"] == 50 * 16 * 4 < drawn["parameter"]  # the embeddings: fused experts are drawn one by one


@pytest.mark.real
@pytest.mark.parametrize(
    ("case", "first", "last"),
    [
        # kept: gathered once before the first of three micro-steps, reduced once after the last
        ("fsdp keep", {GATHER: LAYERS + 1}, {SCATTER: LAYERS + 1}),
        ("hsdp keep", {GATHER: LAYERS + 1}, {SCATTER: LAYERS + 1, REDUCE: LAYERS + 1}),
        # freed: in backward all but the last layer and the root are gathered again; replicas wait for the last
        ("fsdp free", {GATHER: 2 * LAYERS, SCATTER: LAYERS + 1}, {GATHER: 2 * LAYERS, SCATTER: LAYERS + 1}),
        (
            "hsdp free",
            {GATHER: 2 * LAYERS, SCATTER: LAYERS + 1},
            {GATHER: 2 * LAYERS, SCATTER: LAYERS + 1, REDUCE: LAYERS + 1},
        ),
    ],
)
def test_micro_steps_omit_unneeded_collectives(
    measured: dict[str, Any], case: str, first: dict[str, int], last: dict[str, int]
) -> None:
    found = measured["micro_steps"][case]
    middle = {} if case.endswith("keep") else first
    assert found["calls"] == [first, middle, last]
    assert found["gradients"] < 1e-6


@pytest.mark.real
def test_weights_gathered_for_an_evaluation_are_not_reused(measured: dict[str, Any]) -> None:
    assert measured["stale"] < 1e-6


@pytest.mark.real
def test_checkpointing_keeps_fewer_bytes(measured: dict[str, Any]) -> None:
    assert measured["kept"]["checkpointed"] < 0.4 * measured["kept"]["plain"]


@pytest.mark.real
def test_compiled_layers_compute_the_same(measured: dict[str, Any]) -> None:
    assert measured["compiled"]["graphs"] > 0  # something was compiled
    assert measured["compiled"]["difference"] < 1e-5


@pytest.mark.real
def test_four_workers_export_their_checkpoint(out: Path, alone: DistributedContext, tmp_path: Path) -> None:
    expected = torch.load(out / "average.pt")
    files = sorted((out / "export").glob("*.safetensors"))
    assert len(files) == 4
    assert all(path.stat().st_size < 12_000 for path in files)  # 10,000 and a header
    exported = AutoModelForCausalLM.from_pretrained(out / "export")
    for name, parameter in exported.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], atol=1e-6, rtol=0)

    checkpoint = Checkpoint(folder=out / "checkpoint", step=1, state=state_of(0.25).as_dict())
    export(checkpoint, ExportTemplate.load(out / "config"), tmp_path / "one", alone, max_file_bytes=10_000)
    assert [path.read_bytes() for path in sorted((tmp_path / "one").glob("*.safetensors"))] == [
        path.read_bytes() for path in files
    ]
    whole = tmp_path / "whole"
    export(checkpoint, ExportTemplate.load(out / "config"), whole, alone)
    weights = load_file(whole / "model.safetensors")
    assert {name for path in files for name in load_file(path)} == weights.keys()


@pytest.mark.parametrize(
    ("shape", "parts", "dim"),
    [
        ((8, 32768, 6144), 256, 1),  # Mixtral 8x22B, gate_up_proj
        ((8, 32768, 6144), 384, 2),
        ((8, 6144, 16384), 384, 1),  # down_proj
        ((8, 32768, 6144), 7, 0),
        ((32768, 6144), 384, 0),
    ],
)
def test_placement_at_full_size(shape: tuple[int, ...], parts: int, dim: int) -> None:
    assert placement(torch.Size(shape), parts).dim == dim


def test_large_experts_that_workers_cannot_share_are_refused() -> None:
    with pytest.raises(UserError, match=r"250 workers .* of shape \[8, 32768, 6144\] evenly, .*: use 192, or another"):
        placement(torch.Size((8, 32768, 6144)), 250)
    assert placement(torch.Size((8, 250, 130)), 7).dim == 0  # fewer workers than experts: nothing is padded
    assert placement(torch.Size((4, 33, 35)), 6).dim == 0  # small: padding costs nothing


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, alone: DistributedContext) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    model = build_model(ModelConfig(layers=1), ModelShape(vocabulary_size=50, context_length=64))
    with pytest.raises(UserError, match=r"C\+\+ compiler no-such-compiler .* is not on the PATH"):
        shard(model, alone, ShardingConfig(compile=True))

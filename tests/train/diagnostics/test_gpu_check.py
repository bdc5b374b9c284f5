"""The GPU check on a machine without a GPU: its imports, a tiny run, and comparisons that must fail."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from brew_train.checkpoints.shards import ShardWriter
from brew_train.diagnostics import parity
from brew_train.diagnostics.gpu_check import TINY, main
from brew_train.distributed.context import DistributedContext
from brew_train.model.attention import varlen_attention
from brew_train.objectives.fused_losses import fused_cross_entropy

CPU = torch.device("cpu")
FORBIDDEN = ("ray", "pyarrow", "rich", "psutil", "pydantic", "pandas", "sklearn", "typer")
TINY_RUN = f"""
import sys
for name in {FORBIDDEN}:
    sys.modules[name] = None
from brew_train.diagnostics.gpu_check import main
sys.exit(main(["--tiny", "--steps", "6", "--warmup", "1", "--rows", "2", "--checkpoint", "--out", sys.argv[1]]))
"""


def test_it_runs_with_only_its_documented_packages(tmp_path: Path) -> None:
    out = tmp_path / "bench/out/gpu.json"
    done = subprocess.run([sys.executable, "-c", TINY_RUN, str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["passed"]
    assert {"date", "device", "versions"} <= report.keys()
    assert report["versions"]["torch"] == torch.__version__
    assert [check["name"] for check in report["checks"]][:5] == [
        "packed attention",
        "packed attention in a window",
        "packed attention of slates",
        "packed attention of slates in a window",
        "fused loss, PyTorch",
    ]
    dense, mixture = report["speeds"]
    assert dense["parameters"] == dense["active"]
    assert mixture["parameters"] > 2 * mixture["active"]
    for speed in report["speeds"]:
        assert speed["tokens_per_second"] > 0
        assert speed["last_loss"] < speed["first_loss"]
        assert (speed["steps"], speed["tokens"]) == (6, 128)
        assert speed["checkpoint_bytes"] > 12 * speed["parameters"]  # float32 weights, and the optimizer's two
        assert 0 < speed["checkpoint_blocked_seconds"] < speed["checkpoint_seconds"]
        assert speed["predicted_bytes"] > 16 * speed["parameters"]  # weights, gradients, and the optimizer's two
        assert speed["name"] in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "PyTorch finds no GPU on this machine" in capsys.readouterr().err


def test_a_leak_between_documents_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parity.check_attention(TINY, CPU, torch.float32).passed

    def leaking(*inputs: Any, cu_seq_lens_q: torch.Tensor, **rest: Any) -> Any:
        return varlen_attention(*inputs, cu_seq_lens_q=cu_seq_lens_q[[0, -1]], **rest)

    monkeypatch.setattr(parity, "varlen_attention", leaking)
    assert not parity.check_attention(TINY, CPU, torch.float32).passed


def test_a_window_that_is_off_by_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parity.check_attention(TINY, CPU, torch.float32, sliding_window=10).passed

    def off_by_one(*inputs: Any, sliding_window: int, **rest: Any) -> Any:
        return varlen_attention(*inputs, sliding_window=sliding_window + 1, **rest)

    monkeypatch.setattr(parity, "varlen_attention", off_by_one)
    assert not parity.check_attention(TINY, CPU, torch.float32, sliding_window=10).passed


@pytest.mark.parametrize("window", [None, 10])
def test_candidates_that_do_not_read_their_prefix_are_found(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parity.check_attention(TINY, CPU, torch.float32, slates=True, sliding_window=window).passed

    def without(*inputs: Any, key_places: torch.Tensor, **rest: Any) -> Any:
        assert key_places is not None
        return varlen_attention(*inputs, key_places=None, **rest)

    monkeypatch.setattr(parity, "varlen_attention", without)
    assert not parity.check_attention(TINY, CPU, torch.float32, slates=True, sliding_window=window).passed


def test_a_missing_token_weight_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parity.check_loss(TINY, CPU, torch.float32, liger=False).passed

    def unweighted(hidden: Any, head: Any, targets: Any, weights: torch.Tensor, **rest: Any) -> Any:
        return fused_cross_entropy(hidden, head, targets, torch.full_like(weights, float(weights.mean())), **rest)

    monkeypatch.setattr(parity, "fused_cross_entropy", unweighted)
    assert not parity.check_loss(TINY, CPU, torch.float32, liger=False).passed


def test_a_checkpoint_that_mixes_steps_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    context = DistributedContext(device=CPU)
    assert parity.check_restore(TINY, context).passed

    def later(shards: ShardWriter, tensors: dict[str, torch.Tensor]) -> Any:
        plan = stage(shards, tensors)
        for name in list(tensors)[::2]:
            shards._buffers[name] += 1e-6
        return plan

    stage = ShardWriter.stage
    monkeypatch.setattr(ShardWriter, "stage", later)
    assert not parity.check_restore(TINY, context).passed


def test_a_nan_does_not_pass() -> None:
    assert not parity.Check(name="", error=float("nan"), limit=1.0).passed
    assert parity.distance(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)

"""Checks one GPU against float32 and measures its speed: `python -m brew_train.diagnostics.gpu_check`.

It needs PyTorch, transformers, liger-kernel, schedulefree, omegaconf, numpy and safetensors. It does not import Ray,
pyarrow, rich, psutil or pydantic, so it runs on a GPU machine without the packages of the cluster.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from brew_platform.errors import UserError
from brew_platform.files import replace_atomically
from brew_train.diagnostics.parity import Check, Scale, check_attention, check_loss, check_restore, check_steps
from brew_train.diagnostics.throughput import Speed, candidates, measure
from brew_train.distributed.context import DistributedContext
from brew_train.objectives.fused_losses import uses_liger

__all__ = ["gpu_check", "main"]

FULL = Scale(tokens=8192, longest=2048, heads=16, kv_heads=4, head_size=128, vocabulary=32_768)
TINY = Scale(tokens=96, longest=40, heads=4, kv_heads=2, head_size=8, vocabulary=97)
PACKAGES = ("torch", "transformers", "liger-kernel", "flash-attn", "schedulefree", "triton", "numpy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command, and returns its exit code: 0 if all checks pass, 1 if one fails, 2 if none can run."""
    parser = argparse.ArgumentParser(
        prog="python -m brew_train.diagnostics.gpu_check", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("--tiny", action="store_true", help="use tiny models, which also run without a GPU")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each model (20)")
    parser.add_argument("--warmup", type=int, default=5, help="steps before the timed steps (5)")
    parser.add_argument("--rows", type=int, default=1, help="rows of 16,384 tokens in a step, one per micro-step (1)")
    parser.add_argument(
        "--checkpoint", action="store_true", help="also time a checkpoint of each model; needs 40 GB of disk"
    )
    parser.add_argument("--compile", action="store_true", help="compile the decoder layers of the timed models")
    parser.add_argument("--out", type=Path, default=Path("bench/out/gpu.json"), help="JSON report (bench/out/gpu.json)")
    options = parser.parse_args(arguments)
    try:
        report = gpu_check(
            tiny=options.tiny, steps=options.steps, warmup=options.warmup, compile=options.compile, rows=options.rows,
            checkpoint=options.checkpoint,
        )  # fmt: skip
    except UserError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(options.out, json.dumps(report, indent=2) + "\n")
    print(f"written to {options.out}")
    return 0 if report["passed"] else 1


def gpu_check(*, tiny: bool, steps: int, warmup: int, compile: bool, rows: int, checkpoint: bool) -> dict[str, Any]:
    """Runs all checks and timings, and prints the result of each.

    Args:
        tiny: use tiny models, which also run without a GPU.
        steps: number of timed steps of each model.
        warmup: number of steps before the timed steps.
        compile: compile the decoder layers of the timed models.
        rows: rows in a step, one per micro-step.
        checkpoint: also time a checkpoint of each model.

    Returns:
        The JSON report: `passed`, `checks`, `speeds`, and the environment.

    Raises:
        UserError: there is no GPU, or liger-kernel is not installed.
    """
    if not tiny and not torch.cuda.is_available():
        raise UserError(
            "PyTorch finds no GPU on this machine: run the check on a machine with a GPU, or add --tiny to test the "
            "check itself on the CPU."
        )
    if not tiny and not uses_liger(torch.device("cuda")):
        raise UserError("the check needs liger-kernel, which is not installed: run pip install liger-kernel.")
    scale = TINY if tiny else FULL
    with tempfile.TemporaryDirectory() as folder:
        timed = candidates(Path(folder), tiny=tiny, compile=compile, rows=rows)
        predicted = [candidate.predicted_peak() for candidate in timed]  # must run before the process group exists
        with DistributedContext.current().sharded() as context:  # FSDP2, as with several workers
            environment = _describe_environment(context.device)
            print(f"{environment['device']}, {environment['date']}")
            print(", ".join(f"{package} {number}" for package, number in environment["versions"].items()))
            dtype = torch.bfloat16 if context.device.type == "cuda" else torch.float32
            checks = [
                _print_check(check_attention(scale, context.device, dtype, sliding_window=window, slates=slates))
                for slates in (False, True)
                for window in (None, scale.longest // 4)
            ]
            for liger in (False, True) if uses_liger(context.device) else (False,):
                checks.append(_print_check(check_loss(scale, context.device, dtype, liger=liger)))
            checks += [_print_check(check(scale, context)) for check in (check_steps, check_restore)]
            speeds = []
            for candidate, peak in zip(timed, predicted, strict=True):
                speed = measure(candidate, context, steps=steps, warmup=warmup, predicted=peak, checkpoint=checkpoint)
                speeds.append(_print_speed(speed))
    return {
        "passed": all(check.passed for check in checks),
        "checks": [{**asdict(check), "passed": check.passed} for check in checks],
        "speeds": [asdict(speed) for speed in speeds],
        "compile": compile,
        **environment,
    }


def _describe_environment(device: torch.device) -> dict[str, Any]:
    """Returns device, date and versions, which every measurement needs."""
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions,
    }


def _print_check(check: Check) -> Check:
    verdict = "ok" if check.passed else "FAILED"
    print(f"  {check.name:<38} error {check.error:.1e}  limit {check.limit:.0e}  {verdict}", flush=True)
    return check


def _print_speed(speed: Speed) -> Speed:
    share = "-" if speed.mfu is None else f"{speed.mfu:.1%}"
    peak = "-" if speed.peak_bytes is None else f"{speed.peak_bytes / 1e9:.1f} GB"
    print(
        f"  {speed.name:<34} {speed.parameters / 1e9:.2f}B, {speed.active / 1e9:.2f}B active: "
        f"{speed.tokens_per_second:,.0f} tokens/s, MFU {share}, peak {peak} (dry run {speed.predicted_bytes / 1e9:.1f} "
        f"GB), loss {speed.first_loss:.2f} to {speed.last_loss:.2f}",
        flush=True,
    )
    if speed.checkpoint_bytes is not None:
        print(
            f"  {'':<34} a checkpoint of {speed.checkpoint_bytes / 1e9:.1f} GB blocks "
            f"{speed.checkpoint_blocked_seconds:.2f} s and is complete after {speed.checkpoint_seconds:.1f} s",
            flush=True,
        )
    return speed


if __name__ == "__main__":
    sys.exit(main())

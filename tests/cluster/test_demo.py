"""The demo on real components, at the smallest size: the files it writes, and how it is stopped."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.real, pytest.mark.ray, pytest.mark.timeout(900)]

SMALL = [
    "source_config.members=60", "source_config.jobs=40", "source_config.posts=60",
    "source_config.interactions_per_member=20",
    "prompt.context_length=512", "tokenizer.vocabulary_size=600",
    "train.model.hidden_size=64", "train.model.heads=2", "train.model.kv_heads=1", "train.model.intermediate_size=64",
    "train.model.layers=2",
    "train.stages.0.steps=4", "train.stages.1.steps=8", "train.checkpoint_every=4",
    "release.requests=4", "release.force_reason=tiny",
]  # fmt: skip
PORT = 18_360


@pytest.fixture(autouse=True)
def leaves_nothing_behind(tmp_path: Path) -> Iterator[None]:
    """No test of this file may leave a process of the demo."""
    yield
    wait_until_gone(tmp_path)


def wait_until_gone(folder: Path) -> None:
    """Fails if a process that was started in `folder` outlives the next 15 seconds."""
    deadline = time.monotonic() + 15
    while left := processes_in(folder):
        if time.monotonic() > deadline:
            pytest.fail(f"left running: {left}")
        time.sleep(0.5)


def processes_in(folder: Path) -> list[str]:
    """Return the processes with this working folder: the command and all that it started, which inherit it."""
    return [
        f"{process.pid} {' '.join(process.info['cmdline'] or [])[:100]}"
        for process in psutil.process_iter(["cmdline", "status", "cwd"])
        if process.info["cwd"] == str(folder) and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """`brew360 demo` at its smallest, in a process group of its own, as a terminal would start it."""
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "brew360"), "demo", *SMALL, "--port", str(PORT), *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "HOME": str(cwd), "COLUMNS": "200"},
    )  # fmt: skip


def wait_for_stage(demo: subprocess.Popen[str], stage: str) -> str:
    """Reads the output up to the line that begins `stage`."""
    assert demo.stdout is not None
    seen = ""
    for line in demo.stdout:
        seen += line
        if re.search(rf"\] {stage}\b", line):
            return seen
    raise AssertionError(f"stage {stage} never began:\n{seen}")


def versions(registry: Path) -> list[str]:
    return sorted(path.name for path in registry.glob("models/*/versions/*"))


@pytest.mark.faults
def test_after_kill_9_nothing_remains_and_the_next_run_ends_with_a_service_that_its_curl_line_reaches(
    tmp_path: Path,
) -> None:
    killed = start(cwd=tmp_path)
    wait_for_stage(killed, "train")
    time.sleep(5)
    killed.kill()
    killed.communicate(timeout=60)
    wait_until_gone(tmp_path)
    assert versions(tmp_path / "runs" / "registry") == []

    demo = start("--keep", "--report", "out/report.json", cwd=tmp_path)
    output, _ = demo.communicate(timeout=600)
    try:
        assert demo.returncode == 0, output
        report = json.loads((tmp_path / "out/report.json").read_text())
        for task in ["job_apply", "post_like", "post_open"]:
            figures = report["tasks"][task]
            assert figures["rows"] > 0
            assert all(figures[name] is not None for name in ["auc", "logloss", "baseline_auc", "best_auc"])
        assert report["train"]["steps"] == 12
        assert report["train"]["tokens_per_second"] > 0
        assert report["registry"]["version"] == 1
        assert report["serve"]["p50_ms"] > 0
        stages = ["tables", "tokenizer", "bins", "train", "benchmark", "publish", "serve", "rank"]
        assert all(report["seconds"][stage] >= 0 for stage in stages)
        manifests = list((tmp_path / "runs").glob("synthetic-*/train/checkpoints/*/manifest.json"))
        assert len(manifests) >= 2, "no checkpoint was written before the kill"

        running = "\n".join(processes_in(tmp_path))
        assert all(name in running for name in ["raylet", "gcs_server", "ray::ServeReplica"]), running
        # The engine's process is spawned by its replica. vLLM sets the title VLLM::EngineCore, which some hosts ignore.
        assert any(name in running for name in ["VLLM", "multiprocessing.spawn"]), running

        line = next(line for line in output.splitlines() if line.startswith("curl "))
        answer = json.loads(subprocess.run(shlex.split(line), capture_output=True, text=True, check=True).stdout)
        assert answer["version"] == 1
        assert len(answer["ranking"]) == 8
        assert all(0 <= item["score"] <= 1 for item in answer["ranking"])

        second = start(cwd=tmp_path)
        refusal, _ = second.communicate(timeout=120)
        assert second.returncode == 2
        assert "cannot be used" in refusal or "Ray is already running" in refusal
        third = start("--port", str(PORT + 1), cwd=tmp_path)
        refusal, _ = third.communicate(timeout=120)
        assert third.returncode == 2
        assert "Ray is already running" in refusal
        assert "brew360 serve down" in refusal
    finally:
        subprocess.run([str(Path(sys.executable).parent / "brew360"), "serve", "down"], check=True, cwd=tmp_path)


def test_ctrl_c_leaves_no_process_and_no_half_written_version(tmp_path: Path) -> None:
    demo = start(cwd=tmp_path)
    wait_for_stage(demo, "bins")
    time.sleep(3)
    os.killpg(demo.pid, signal.SIGINT)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    assert "interrupted" in output
    assert "Traceback" not in output
    assert versions(tmp_path / "runs" / "registry") == []

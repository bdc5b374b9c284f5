"""README's sections for the platform team and for teams that submit jobs, by their own commands, on an S3 of moto.

`brew360 cluster up` and `down` run in definition/test_local_real.py, `submit` and `jobs` in gateway/.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from brew_cluster.jobs.lineage import Lineage
from brew_data.data_folder import DataFolder
from brew_platform.ports import free_port
from brew_platform.registry.gates import Gate
from brew_platform.registry.model_digest import folder_digest

from ..s3_servers import make_bucket, moto_server
from .tiny_version import write_tiny_version

pytestmark = [pytest.mark.real, pytest.mark.ray, pytest.mark.timeout(500)]

README = Path(__file__).parents[2] / "README.md"
ELSEWHERE = ("brew360 cluster up", "brew360 cluster down")


def blocks(section: str) -> list[list[str]]:
    """Return the commands of the shell blocks of a section."""
    [text] = re.findall(rf"^## {section}.*?(?=^## )", README.read_text(), re.M | re.S)
    return [block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)]


def write_export(folder: Path, data: DataFolder, *, seed: int, auc: float) -> None:
    """Write an export with random weights and the gate buy.auc >= 0.6, and the report of its benchmark beside it."""
    bundle = data.bundle()
    write_tiny_version(bundle, folder, seed=seed)
    Lineage(
        parent=None, plan_hashes={"cpt": "abc"}, config_digest="c" * 64, commit="d" * 40,
        gates=[Gate(figure="buy.auc", at_least=0.6)],
    ).write(folder)  # fmt: skip
    report = {
        "format_version": 1, "model": {"name": str(folder), "digest": folder_digest(folder)},
        "data": {"source": "tables"}, "prompt_digest": bundle.digest,
        "sample": {"rows": 10, "of": 10, "rows_digest": "r"}, "tasks": {"buy": {"auc": auc, "logloss": 0.5}},
    }  # fmt: skip
    (folder.parent / "report.json").write_text(json.dumps(report))


class Operator:
    """A person who types README's commands into a shell, in a folder of their own."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self.port = free_port()
        self.variables = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "BREW360"))}
        self.variables |= variables | {
            "HOME": str(folder), "COLUMNS": "200", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip

    def types(self, line: str, *, code: int = 0) -> str:
        """Run a line, and return its output."""
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").split(" #")[0].partition("=")
            self.variables[name] = value
            return ""
        line = line.replace(
            "brew360 serve up", f"brew360 serve up port={self.port} engine.kind=torch follow_seconds=0.5"
        )
        line = line.replace("brew360 serve status", f"brew360 serve status --url http://127.0.0.1:{self.port}")
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.variables, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=200, check=False,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert done.returncode == code, f"{line}\n{done.stdout}"
        return done.stdout

    def serves(self, version: int) -> None:
        """Wait until the service ranks with a version."""
        body = {
            "task": "buy",
            "member": {"profile": {"city": "Rome"}},
            "candidates": [{"id": "a", "fields": {"title": "Lamp"}}],
        }
        deadline = time.monotonic() + 90
        answer: Any = None
        while answer is None or answer.get("version") != version:
            assert time.monotonic() < deadline, answer
            time.sleep(0.5)
            answer = httpx.post(f"http://127.0.0.1:{self.port}/v1/rank", json=body, timeout=30, trust_env=False).json()


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    """An operator with an empty bucket `models`; no process is left afterwards."""
    with moto_server() as variables:
        make_bucket("models", variables)
        operator = Operator(tmp_path, variables)
        try:
            yield operator
        finally:
            operator.types("brew360 serve down")
    deadline = time.monotonic() + 20
    while left := [process for process in psutil.process_iter(["cwd", "status"]) if is_in(process, tmp_path)]:
        assert time.monotonic() < deadline, f"left running: {left}"
        time.sleep(0.5)


def is_in(process: psutil.Process, folder: Path) -> bool:
    return process.info["cwd"] == str(folder) and process.info["status"] != psutil.STATUS_ZOMBIE


def test_an_operator_serves_from_s3_goes_back_and_renders_a_cluster(
    operator: Operator, built_folder: DataFolder
) -> None:
    serving, bad_release, cluster = blocks("For the platform team")
    export = operator.folder / "runs/cpt/export"
    write_export(export, built_folder, seed=1, auc=0.7)
    output = {line.split(" #")[0]: operator.types(line) for line in serving}
    assert "gate buy.auc passed" in output["brew360 registry promote 1"]
    assert "production" in output["brew360 serve status"]
    operator.serves(1)

    publish = next(line for line in serving if "publish" in line)
    write_export(operator.folder / "worse/export", built_folder, seed=3, auc=0.5)
    operator.types(publish.replace("runs/cpt", "worse"))
    refused = operator.types("brew360 registry promote 2", code=1)
    assert "gate buy.auc failed (value 0.5, threshold 0.6)" in refused
    operator.serves(1)
    write_export(operator.folder / "second/export", built_folder, seed=2, auc=0.8)
    operator.types(publish.replace("runs/cpt", "second"))
    promote, *rest, down = bad_release
    operator.types(promote.replace("promote 2", "promote 3"))
    operator.serves(3)
    output = {line.split()[2]: operator.types(line.replace("retire 2", "retire 3")) for line in rest}
    assert "production is version 1 of brew360 again" in output["rollback"]
    assert "blocked" in output["log"]
    operator.serves(1)
    assert "stopped the service" in operator.types(down)

    for line in cluster:
        if not line.startswith(ELSEWHERE):
            operator.types(line)
    assert (operator.folder / "deploy/manifests/60-cluster.yaml").is_file()

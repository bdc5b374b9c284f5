"""README's sections for the platform team and for teams that submit jobs, by their own commands.

S3 is moto, the cluster is the local one of the definition `laptop`, and model, data and training are tiny.
"""

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
from typing import Any

import httpx
import pytest

from brew_cluster.jobs.lineage import Lineage
from brew_data.data_folder import DataFolder
from brew_platform.ports import free_port
from brew_platform.registry.gates import Gate
from brew_platform.registry.model_digest import folder_digest

from ..left_processes import require_none_left
from ..s3_servers import make_bucket, moto_server
from .tiny_version import write_tiny_version

pytestmark = [pytest.mark.real, pytest.mark.ray, pytest.mark.timeout(500)]

README = Path(__file__).parents[2] / "README.md"
TINY = [  # settings of a training of two steps
    "context_length=256", "evaluation.cpt=${data}/bins", "train.workers=1", "train.model.layers=1",
    "train.stages.0.steps=2", "train.stages.0.bins_per_step=1", "train.stages.0.evaluate_every=0",
]  # fmt: skip


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
        "format_version": 2, "model": {"name": str(folder), "digest": folder_digest(folder)},
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
            self.sets(line)
            return ""
        line = line.replace(
            "brew360 serve up", f"brew360 serve up port={self.port} engine.kind=torch follow_seconds=0.5"
        )
        line = line.replace("brew360 serve status", f"brew360 serve status --url http://127.0.0.1:{self.port}")
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.variables, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{line}\n{done.stdout}"
        return done.stdout

    def sets(self, line: str) -> None:
        """Set the variables of a line that exports them."""
        printed = subprocess.run(
            ["bash", "-c", f"{line}; env -0"], cwd=self.folder, env=self.variables, stdout=subprocess.PIPE, text=True,
            check=True,
        ).stdout  # fmt: skip
        self.variables = dict(variable.split("=", 1) for variable in printed.split("\0") if variable)

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
    require_none_left(tmp_path)


def test_an_operator_serves_from_s3_goes_back_and_renders_a_cluster(
    operator: Operator, built_folder: DataFolder
) -> None:
    serving, bad_release, cluster, _ = blocks("For the platform team")
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
        if " up " not in line and not line.endswith(" down"):  # the next test runs these
            operator.types(line)
    assert (operator.folder / "deploy/manifests/60-cluster.yaml").is_file()


@pytest.fixture
def gateway(operator: Operator) -> Iterator[Operator]:
    """A local cluster with a job gateway for the team research; yields a person of that team."""
    *_, cluster, (create_key, signing_key, serve) = blocks("For the platform team")
    [up] = [line for line in cluster if " up " in line]
    printed = operator.types(up)
    for line in re.findall(r"^export .*", printed, re.M):
        operator.sets(line)
    operator.types(create_key)
    operator.types(signing_key)
    team = Operator(operator.folder, {})
    team.port = free_port()
    [address] = re.findall(r"Ray Jobs at (\S+),", printed)
    words = ["brew360", "jobs", "serve", f"ray_address={address}", "gpus=0", "cpus=4", f"port={team.port}"]
    assert serve.split()[:3] == words[:3]
    process = subprocess.Popen(
        [*words, f"folder={operator.folder}", "poll_seconds=0.5", "stop_seconds=20"], cwd=operator.folder,
        env=operator.variables,
    )  # fmt: skip
    try:
        yield team
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        assert "stopped the Ray in" in operator.types(cluster[-1])
        operator.variables.pop("RAY_ADDRESS")  # it has ended


def test_a_team_submits_follows_and_cancels_jobs(gateway: Operator, built_folder: DataFolder) -> None:
    team = gateway
    [[address, key, submit, list_, logs, submit_program, show, cancel, usage]] = blocks("For teams that submit jobs")
    team.types(address.replace("8360", str(team.port)))
    team.types(key)
    assert "needs 4 GPUs, but jobs on this cluster can use 0" in team.types(submit, code=2)
    tiny = shlex.join([f"data={built_folder.folder}", *TINY])
    assert "job-" in team.types(submit.replace("--gpus 4", tiny))
    [job] = json.loads(team.types(f"{list_} --json"))
    assert "succeeded" in team.types(logs.replace("job-1", job["id"]))
    assert (team.folder / "research/runs/cpt/export/config.json").is_file()
    text = team.types(submit_program.replace("python my_program.py", "sleep 600"))
    [second] = set(re.findall(r"job-\d+", text))
    assert second in team.types(show.replace("job-5", second))
    team.types(cancel.replace("job-5", second))
    deadline = time.monotonic() + 60
    while json.loads(team.types(show.replace("job-5", second) + " --json"))["state"] != "cancelled":
        assert time.monotonic() < deadline
    assert "of 5000" in team.types(usage)

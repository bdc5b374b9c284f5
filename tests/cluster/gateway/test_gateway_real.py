"""A gateway on a real Ray: logs are followed over a kill -9 of the gateway, cancel, foreign jobs, and preemption."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from brew_cluster.gateway.client import JobClient
from brew_cluster.gateway.spec import JobSpec, JobState
from brew_cluster.ray.local_ray import LOOPBACK, ray_command
from brew_cluster.ray.session import RaySession
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.prompts.tokenizer import train_tokenizer
from brew_platform.identity.keys import create_key
from brew_platform.ports import free_port
from brew_train.checkpoints.ledger import audit

from ...serve.running_ray import RAY

pytestmark = [*RAY, pytest.mark.faults, pytest.mark.timeout(500)]

BIN = Path(sys.executable).parent
STEPS = 600
RECIPE = {
    "data": "data",
    "run": "run",
    "bins": {"cpt": "${data}/bins"},
    "context_length": 64,
    "train": {
        "model": {"hidden_size": 16, "intermediate_size": 16, "layers": 2, "heads": 2, "kv_heads": 1},
        "workers": 2,
        "checkpoint_every": 2_000,
        "stages": [{"name": "cpt", "steps": STEPS, "bins_per_step": 2, "warmup_steps": 2}],
    },
}


class Cluster(NamedTuple):
    address: str
    session: RaySession


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A Ray with a dashboard, which accepts jobs."""
    session, port = RaySession.create(), free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
        patch.setenv("RAY_TRAIN_V2_ENABLED", "1")
        try:
            with session.environment(kept=True):
                ray_command("start", "--head", "--port=0", "--num-cpus=8", "--num-gpus=0", "--include-dashboard=true",
                            f"--dashboard-host={LOOPBACK}", f"--dashboard-port={port}", f"--temp-dir={session.folder}",
                            "--object-store-memory=200000000", "--disable-usage-stats",
                            "--dashboard-agent-listen-port=0", f"--node-ip-address={LOOPBACK}",
                            f"--ray-client-server-port={free_port()}")  # fmt: skip
                yield Cluster(f"http://{LOOPBACK}:{port}", session)
        finally:
            session.stop()
            session.remove()


class RunningGateway:
    """A gateway process, and the commands that call it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.folder, self.url = folder, f"http://127.0.0.1:{free_port()}"
        self.keys = {
            "feed": create_key(folder / "keys.yaml", "feed", scopes={"jobs"}),
            "ads": create_key(folder / "keys.yaml", "ads", scopes={"jobs"}, priority=1),
        }
        port = self.url.rpartition(":")[2]
        self.name = f"gateway-{port}"  # another ledger on the same cluster needs another name
        self._arguments = [
            f"port={port}", f"ray_address={cluster.address}", "keys_path=keys.yaml", "cpus=3", "poll_seconds=0.5",
            f"folder={folder}/work", "store=store", f"name={self.name}", "stop_seconds=60", "log_path=gateway.log",
        ]  # fmt: skip
        self._environment = {
            **os.environ,
            "BREW360_JOBS_SIGNING_KEY": "k" * 32,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(cluster.session.token_path),
            "HOME": str(folder),
        }
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        self.process = subprocess.Popen(
            [BIN / "brew360", "jobs", "serve", *self._arguments],
            cwd=self.folder, env=self._environment, stdout=(self.folder / "gateway.out").open("ab"),
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        return self.process

    def command(self, *arguments: str, team: str = "feed") -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [BIN / "brew360", *arguments], cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "BREW360_JOBS_URL": self.url, "BREW360_API_KEY": self.keys[team], "COLUMNS": "200"},
        )  # fmt: skip

    def client(self, team: str = "feed") -> JobClient:
        return JobClient(self.url, api_key=self.keys[team])

    def wait(self, job: str, condition: Callable[[JobState], bool], team: str = "feed") -> JobState:
        deadline = time.monotonic() + 180
        with self.client(team) as client:
            while not condition(state := client.show(job)):
                assert not state.has_ended, state
                assert time.monotonic() < deadline, state
                time.sleep(0.3)
            return state


@pytest.fixture
def gateway(cluster: Cluster, tmp_path: Path) -> Iterator[RunningGateway]:
    (tmp_path / "work").mkdir()
    running = RunningGateway(cluster, tmp_path)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def entrypoint(text: str, **fields: Any) -> JobSpec:
    return JobSpec(kind="entrypoint", entrypoint=text, **fields)


def test_jobs_survive_the_gateway_and_obey_it(gateway: RunningGateway, cluster: Cluster) -> None:
    with gateway.client() as client:  # waits until the gateway answers
        client.usage()
    script = "echo $BREW360_JOB_ID >> ran; echo first; while [ ! -e go ]; do sleep 0.2; done; echo last"
    following = gateway.command("submit", "--follow", "--entrypoint", script)
    assert following.stdout is not None
    seen = []
    for line in following.stdout:
        seen.append(line)
        if line == "first\n":
            break
    gateway.process.kill()
    gateway.process.wait()
    (gateway.folder / "work" / "feed" / "go").touch()
    time.sleep(1)
    gateway.start()
    rest, _ = following.communicate(timeout=120)
    output = "".join(seen) + rest
    assert following.returncode == 0, output
    assert output.count("\nfirst\n") == 1
    assert output.endswith("\nlast\njob-1 succeeded.\n")
    assert (gateway.folder / "work" / "feed" / "ran").read_text() == "job-1\n"

    with gateway.client() as client:
        stubborn = client.submit(entrypoint("trap 'echo stopping; exit 3' TERM; echo up; while :; do sleep 0.2; done"))
        gateway.wait(stubborn, lambda state: "up\n" in client.log_part(stubborn, attempt=1, offset=0).text)
        detached = gateway.command("jobs", "logs", stubborn, "--follow")
        assert detached.stdout is not None
        while "up\n" not in detached.stdout.readline():
            pass
        detached.send_signal(signal.SIGINT)
        text, _ = detached.communicate(timeout=60)
        assert detached.returncode == 130
        assert f"detached; {stubborn} continues." in text
        assert client.show(stubborn).state == "running"
        canceled = gateway.command("jobs", "cancel", stubborn, "--json")
        assert json.loads(canceled.communicate(timeout=60)[0])["state"] == "stopping"
        assert client.wait(stubborn).state == "cancelled"
        assert "stopping\n" in "".join(client.logs(stubborn))

        failing = client.submit(entrypoint("echo no; exit 7", retries=1))
        state = client.wait(failing)
        assert [attempt.outcome for attempt in state.attempts] == ["failed", "failed"]
        assert "exit code 7" in state.reason

        from ray.job_submission import JobSubmissionClient

        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("RAY_ADDRESS", raising=False)
            jobs = JobSubmissionClient(cluster.address)
            details = jobs.get_job_info(f"{gateway.name}-{failing}-1")
            assert details.metadata["brew360.team"] == "feed"
            number = max(int(job.id.removeprefix("job-")) for job in client.jobs(ended=True))
            events = list((gateway.folder / f"store/jobs/{gateway.name}/events").iterdir())
            foreign = f"job-{len(events) + 1}"
            assert len(events) > number
            jobs.submit_job(
                entrypoint="echo mine", submission_id=f"{gateway.name}-{foreign}-1", metadata=details.metadata
            )
        assert client.submit(entrypoint("echo yours")) == foreign
        state = client.wait(foreign)
        assert (state.state, len(state.attempts)) == ("failed", 1)
        assert "that this gateway did not submit" in state.reason
        listed = gateway.command("jobs", "list", "--ended").communicate(timeout=60)[0]
        assert all(words in listed for words in (stubborn, "cancelled", failing, "failed"))


def test_a_preempted_training_continues_from_its_checkpoint(
    gateway: RunningGateway, write_bins: Callable[..., Path]
) -> None:
    work = gateway.folder / "work" / "feed"
    tokenizer = train_tokenizer(["counting " * 50], vocabulary_size=300)
    bundle = PromptBundle(suite=load_suite("movielens"), format=PromptFormat(context_length=512), tokenizer=tokenizer)
    bundle.save(work / "data" / "prompts")
    write_bins(work / "data" / "bins", vocabulary_size=tokenizer.vocabulary_size, prompt_digest=bundle.digest)
    (gateway.folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    done = gateway.command("submit", "train", "tiny.yaml", "train.seed=3", "--json")
    job = json.loads(done.communicate(timeout=60)[0])
    assert job["spec"]["cpus"] == 2

    def steps() -> int:
        metrics = work / "run" / "metrics.jsonl"
        return metrics.read_text().count("\n") if metrics.exists() else 0

    gateway.wait(job["id"], lambda state: state.state == "running" and steps() > 20)
    with gateway.client("ads") as client:
        urgent = client.submit(entrypoint("echo urgent", cpus=3))
        stopped = gateway.wait(job["id"], lambda state: bool(state.attempts and state.attempts[0].ended))
        assert stopped.attempts[0].outcome == "preempted"
        assert client.wait(urgent).state == "succeeded"
    state = gateway.wait(job["id"], lambda state: state.has_ended)
    assert state.state == "succeeded", state
    assert [attempt.outcome for attempt in state.attempts] == ["preempted", "succeeded"]
    rows = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    losses: dict[int, float] = {}
    assert all(losses.setdefault(row["step"], row["loss"]) == row["loss"] for row in rows)  # repeated steps, bitwise
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows].count(1) == 1  # it wrote a checkpoint although none was due
    assert audit(work / "run", {"cpt": 12}).bins == {"cpt": [12] * (STEPS // 6)}

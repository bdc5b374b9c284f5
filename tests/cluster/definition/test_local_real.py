"""`brew360 cluster up --local`: Ray nodes of every group, which place a gang and replicas, and lose a node of each."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.real, pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(400)]

# Places a gang of two workers on three train nodes and two replicas on two online nodes, kills a node of each, and
# prints where everything ran before and after. Then it runs a job, as the job gateway does.
PROGRAM = """
import json, os, sys, time
import psutil, ray
from ray import serve
from ray.job_submission import JobSubmissionClient
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

TRAIN, ONLINE = {"brew360/role": "train"}, {"brew360/role": "online"}

@ray.remote(num_cpus=1)
class Worker:
    def node(self):
        return ray.get_runtime_context().get_node_id()

@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.4, "label_selector": ONLINE})
class Replica:
    def __call__(self):
        return ray.get_runtime_context().get_node_id()

def alive():
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}

def place():
    gang = placement_group([{"CPU": 1}] * 2, strategy="STRICT_SPREAD", bundle_label_selector=[TRAIN] * 2)
    ray.get(gang.ready(), timeout=90)
    workers = [
        Worker.options(scheduling_strategy=PlacementGroupSchedulingStrategy(gang, bundle)).remote() for bundle in (0, 1)
    ]
    found = ray.get([worker.node.remote() for worker in workers], timeout=90)
    remove_placement_group(gang)
    return found

def replicas(handle, expected):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            found = {handle.remote().result(timeout_s=10) for _ in range(20)}
            if found == expected:
                return sorted(found)
        except Exception:
            pass
        time.sleep(1)
    raise SystemExit(f"replicas are not on {expected}")

def kill(node_id):
    node = alive()[node_id]
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(node["RayletSocketName"] in word for word in words) and "raylet/raylet" in words[0]:
            process.kill()
    deadline = time.monotonic() + 90
    while node_id in alive():
        assert time.monotonic() < deadline
        time.sleep(0.5)

ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level="warning")
labels = {node_id: node["Labels"]["brew360/role"] for node_id, node in alive().items()}
online = {node_id for node_id, role in labels.items() if role == "online"}
serve.start(proxy_location="Disabled")
handle = serve.run(Replica.bind(), name="replicas", route_prefix=None)
result = {"nodes": sorted(labels.values()), "gang": [labels[node] for node in place()]}
result["replicas"] = [labels[node] for node in replicas(handle, online)]
lost_train = next(node_id for node_id, role in labels.items() if role == "train")
kill(lost_train)
after = place()
result["gang_after"] = [labels[node] for node in after]
assert lost_train not in after
lost_online = sorted(online)[0]
kill(lost_online)
result["replicas_after"] = [labels[node] for node in replicas(handle, online - {lost_online})]
serve.delete("replicas")
jobs = JobSubmissionClient(os.environ["JOBS_URL"])
job, deadline = jobs.submit_job(entrypoint="echo placed"), time.monotonic() + 90
while not (status := jobs.get_job_status(job)).is_terminal() and time.monotonic() < deadline:
    time.sleep(0.5)
result["job"] = [status.value, "placed" in jobs.get_job_logs(job).splitlines()]
print(json.dumps(result))
"""


def brew360(*arguments: str, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "brew360"), *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200, check=False,
        env=without_ray() | {"COLUMNS": "200"} | variables,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def without_ray() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "BREW360_"))}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of a cluster with three train nodes and two online nodes; all its processes end with it."""
    sizes = ["groups.train.min_nodes=3", "groups.train.max_nodes=3"]
    printed = brew360("cluster", "up", "laptop", *sizes, "--local", "--nodes", "3", cwd=tmp_path)
    variables = dict(re.findall(r"(RAY_\w+)=(\S+)", printed))
    [(url, key)] = re.findall(r"BREW360_JOBS_URL=(\S+) BREW360_API_KEY=\$\(cat (\S+)\)", printed)
    variables |= {"BREW360_JOBS_URL": url, "BREW360_API_KEY": Path(key).read_text()}
    variables["JOBS_URL"] = re.findall(r"Ray Jobs at (\S+),", printed)[0]
    try:
        yield variables
    finally:
        assert "stopped the Ray in" in brew360("cluster", "down", cwd=tmp_path)
        folder = str(Path(variables["RAY_AUTH_TOKEN_PATH"]).parent)
        left = [p for p in psutil.process_iter(["cmdline"]) if folder in " ".join(p.info["cmdline"] or [])]
        assert left == []


def test_a_gang_and_replicas_are_placed_and_survive_the_loss_of_their_nodes(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False, env=without_ray() | cluster,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert Counter(result["nodes"]) == {"head": 1, "data": 1, "train": 3, "online": 2}
    assert result["gang"] == result["gang_after"] == ["train", "train"]
    assert result["replicas"] == ["online", "online"]
    assert result["replicas_after"] == ["online"]
    assert result["job"] == ["SUCCEEDED", True]
    gateway = {name: value for name, value in cluster.items() if name.startswith("BREW360_")}
    followed = brew360("submit", "--entrypoint", "echo submitted", "--follow", cwd=tmp_path, **gateway)
    assert "submitted" in followed.splitlines()

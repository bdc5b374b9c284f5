"""The definition for 512 H100s on Ray's own fake nodes: its gang and its service are placed, and survive lost nodes.

A fake node is a raylet of this machine that offers GPUs which do not exist. Real are the definition and its checks, Ray
Train's placement group, the application of the rendered Serve config, its gateway, version controller and replicas, and
Ray's detection of a lost node. The workers of the gang do not train, and the engine is PyTorch on the CPU. Of the head,
its state is lost: the process that keeps it (GCS) is killed, and a new one continues from Redis. The whole machine of
the head is not lost.
"""

import importlib
import json
import logging
import shlex
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from brew_cluster.definition.load import load_definition
from brew_cluster.definition.pods import ROLE_LABEL, node_labels
from brew_cluster.definition.programs import Programs, load_programs
from brew_cluster.definition.render import check_definition
from brew_cluster.jobs.train_job import load_job
from brew_data.data_folder import DataFolder
from brew_platform.identity.keys import create_key
from brew_platform.ports import free_port
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store

from ...redis_server import RedisServer, find_redis
from ..tiny_version import write_tiny_version

pytestmark = [
    pytest.mark.real,
    pytest.mark.ray,
    pytest.mark.faults,
    pytest.mark.timeout(580),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning:ray"),
]

WORKERS = 4  # on two nodes of two GPUs; a third node is the spare
BOUND = 120.0  # seconds from the loss of a node until everything is placed again, on two busy cores


def definition(root: Path) -> Programs:
    """Load the definition with fewer and smaller nodes, and files in `root`."""
    config = load_definition([
        "h100_512", "gpus=14", "groups.data.min_nodes=2", "groups.data.max_nodes=2",
        "groups.train.gpus=2", "groups.train.min_nodes=2", "groups.train.max_nodes=3",
        "groups.nearline.gpus=2", "groups.nearline.max_nodes=1",
        "groups.online.gpus=2", "groups.online.min_nodes=2", "groups.online.max_nodes=3",
        f"mounts.runs.path={root}",
        f"training.settings=[data={root}/data, run={root}/run, train.workers={WORKERS}]",
        "job_gateway=null",  # its folder is on the mount that moves
        "service.recipe=null",
        f"service.settings=[registry_url={root}/registry, run={root}/serve, middleware.keys_path={root}/keys.yaml, "
        "gpus=1, min_replicas=2, max_replicas=2, engine.kind=torch, follow_seconds=0.5]",
    ])  # fmt: skip
    programs = load_programs(config)
    assert check_definition(config, programs) == []
    return programs


def publish_tiny_version(data: DataFolder, root: Path) -> None:
    """Publish a version with random weights, and promote it."""
    write_tiny_version(data.bundle(), root / "export")
    registry = Registry(open_store(str(root / "registry")))
    registry.publish(root / "export", signature={}, lineage={}, metrics={}, author="test")
    registry.promote(1, force=True, reason="test", author="test")


def stay(arguments: dict[str, str]) -> None:
    """Run one worker of the gang: write where it runs, and stay until the gang is stopped."""
    import ray
    import ray.train

    rank, node = ray.train.get_context().get_world_rank(), ray.get_runtime_context().get_node_id()
    folder = Path(arguments["folder"])
    path = folder / f"{uuid.uuid4().hex}.tmp"
    path.write_text(json.dumps({"rank": rank, "node": node, "time": time.time()}))
    path.rename(path.with_suffix(".json"))
    while not (folder / "stop").exists():
        time.sleep(0.2)


def until(found: Callable[[], Any], seconds: float = BOUND) -> Any:
    """Call `found` until it returns a true value, and return that."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, f"nothing after {seconds:.0f} s"
        time.sleep(0.3)
    return result


@dataclass(kw_only=True)
class FakeCluster:
    """The cluster, with the gang and the service running."""

    cluster: Any
    nodes: dict[str, Any]  # by id
    roles: dict[str, str]  # by id of the node
    root: Path
    url: str
    key: str
    since: float = 0.0  # reports of the gang before are of processes that ended

    def gang(self) -> list[str]:
        """Return the nodes of the workers, once all have reported since the last loss."""
        reports = [json.loads(path.read_text()) for path in (self.root / "gang").glob("*.json")]
        newest = {report["rank"]: report["node"] for report in sorted(reports, key=lambda report: report["time"])
                  if report["time"] > self.since}  # fmt: skip
        return [newest[rank] for rank in range(WORKERS)] if len(newest) == WORKERS else []

    def serving(self) -> dict[str, list[str]]:
        """Return the nodes of the running processes of the service, by deployment; those of lost nodes are left out."""
        from ray.serve.context import _get_global_client

        found: dict[str, list[str]] = {}
        client = _get_global_client()
        assert client is not None
        for application in client.get_serve_details()["applications"].values():
            for name, deployment in application["deployments"].items():
                running = [replica["node_id"] for replica in deployment["replicas"] if replica["state"] == "RUNNING"]
                found[name] = sorted(node for node in running if node in self.nodes)
        return found

    def complete(self) -> bool:
        """Whether all processes of the service run."""
        counts = {name: len(nodes) for name, nodes in self.serving().items()}
        return counts == {"Gateway": 1, "VersionController": 1, "Replica": 2}

    def answers(self) -> bool:
        body = {"task": "buy", "member": {"profile": {"city": "Rome"}, "history": []},
                "candidates": [{"id": "a", "fields": {"title": "Lamp"}}]}  # fmt: skip
        try:
            answer = httpx.post(f"{self.url}/v1/rank", json=body, timeout=20, trust_env=False,
                                headers={"authorization": f"Bearer {self.key}"})  # fmt: skip
        except httpx.HTTPError:
            return False
        return answer.status_code == 200 and answer.json()["version"] == 1

    def kill(self, node: str) -> float:
        """Kill all processes of a node with SIGKILL, and return the time."""
        self.since = time.time()
        self.cluster.remove_node(self.nodes.pop(node), allow_graceful=False)
        return time.monotonic()

    def of(self, role: str) -> list[str]:
        """Return the nodes of a role that have not been killed."""
        return [node for node in self.nodes if self.roles[node] == role]


@pytest.fixture(scope="module")
def fakes(tmp_path_factory: pytest.TempPathFactory, built_folder: DataFolder) -> Iterator[FakeCluster]:
    """Start a node for each that the definition has at its largest size, then the gang and the service."""
    root = tmp_path_factory.mktemp("fakes")
    programs = definition(root)
    key = create_key(root / "keys.yaml", "feed")
    publish_tiny_version(built_folder, root)
    (root / "gang").mkdir()
    redis = RedisServer(find_redis(), root / "redis")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        patch.setenv("RAY_REDIS_ADDRESS", f"127.0.0.1:{redis.port}")
        patch.setenv("RAY_TRAIN_V2_ENABLED", "1")
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # as in training
        patch.setenv("RAY_prestart_worker_first_driver", "0")  # not a process for each of the 176 CPUs of a node
        try:
            yield from _running(programs, root, key)
        finally:
            redis.kill()


def _running(programs: Programs, root: Path, key: str) -> Iterator[FakeCluster]:
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "gcs_server_port": free_port(), **small})
    gang: threading.Thread | None = None
    try:
        nodes, roles = {}, {}
        for name, group in programs.config.groups.items():
            for _ in range(group.max_nodes if group.role != "head" else 0):
                node = cluster.add_node(
                    wait=False, num_cpus=group.cpus, num_gpus=group.gpus, labels=node_labels(name, group), **small
                )
                nodes[node.node_id] = node
                roles[node.node_id] = group.role
        cluster.wait_for_nodes(timeout=BOUND)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        gang = threading.Thread(target=_run_gang, args=(programs, root / "gang"), daemon=True)
        gang.start()
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port}, proxy_location="HeadOnly")
        [application] = programs.serve_config()["applications"]
        module, _, function = application["import_path"].partition(":")
        app = getattr(importlib.import_module(module), function)(application["args"])
        serve.run(app, name=application["name"], route_prefix=application["route_prefix"], blocking=False)
        yield FakeCluster(cluster=cluster, nodes=nodes, roles=roles, root=root, url=f"http://127.0.0.1:{port}", key=key)
    finally:
        (root / "gang" / "stop").touch()
        if gang is not None:
            gang.join(timeout=60)
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


def _run_gang(programs: Programs, folder: Path) -> None:
    import ray.train
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from brew_train.ray_launcher import scaling_config

    _, _, recipe, *settings = shlex.split(programs.training_command())  # that of the rendered job
    DataParallelTrainer(
        stay,
        train_loop_config={"folder": str(folder)},
        scaling_config=scaling_config(load_job(recipe, settings).train, gpu=True),
        run_config=ray.train.RunConfig(
            storage_path=str(folder / "ray"), failure_config=ray.train.FailureConfig(max_failures=10)
        ),
    ).fit()


def test_the_gang_and_the_service_are_placed_and_survive_the_loss_of_each_kind_of_node(
    fakes: FakeCluster,
) -> None:
    import ray

    def roles(nodes: list[str]) -> set[str]:
        return {fakes.roles[node] for node in nodes}

    seconds: dict[str, float] = {}  # from a loss until everything is placed again
    assert Counter(fakes.roles.values()) == {"data": 2, "train": 3, "nearline": 1, "online": 3}
    first = until(fakes.gang)
    assert sorted(Counter(first).values()) == [2, 2]
    assert roles(first) == {"train"}
    until(fakes.complete)
    until(fakes.answers)
    serving = fakes.serving()
    assert {name: roles(nodes) for name, nodes in serving.items()} == {name: {"online"} for name in serving}
    assert len(set(serving["Replica"])) == 2

    # A node of training: all workers start again on the spare node and the other one; the service is not touched.
    killed = fakes.kill(first[0])
    second = until(fakes.gang)
    seconds["gang"] = round(time.monotonic() - killed, 1)
    assert sorted(Counter(second).values()) == [2, 2]
    assert set(second) == set(fakes.of("train"))
    assert fakes.answers()
    assert fakes.serving() == serving

    # A node with a replica: the replica starts on another node of the role, and the gang is not touched.
    lost = next(node for node in serving["Replica"] if node not in serving["Gateway"])
    killed = fakes.kill(lost)
    until(lambda: not fakes.complete())
    until(fakes.complete)
    seconds["replica"] = round(time.monotonic() - killed, 1)
    assert roles(fakes.serving()["Replica"]) == {"online"}
    assert fakes.answers()
    assert fakes.gang() == []  # no worker has started again

    # The node with the gateway: the service answers again.
    [lost] = fakes.serving()["Gateway"]
    killed = fakes.kill(lost)
    until(lambda: not fakes.complete())
    until(lambda: fakes.complete() and fakes.answers())
    seconds["gateway"] = round(time.monotonic() - killed, 1)

    # A node with tasks on data: they run again on the other one.
    @ray.remote(num_cpus=1, max_retries=2, label_selector={ROLE_LABEL: "data"})
    def task() -> str:
        time.sleep(3)
        return ray.get_runtime_context().get_node_id()

    lost, left = fakes.of("data")
    results = [task.remote() for _ in range(4)]
    time.sleep(1)
    fakes.kill(lost)
    results += [task.remote() for _ in range(4)]
    assert set(ray.get(results, timeout=BOUND)) <= {lost, left}
    assert set(ray.get(results[4:], timeout=BOUND)) == {left}
    assert fakes.gang() == []
    assert fakes.answers()

    # The state of the cluster: the service answers meanwhile, and a new process continues from Redis.
    serving = fakes.serving()
    head = fakes.cluster.head_node
    head.kill_gcs_server()
    assert [fakes.answers() for _ in range(3)] == [True] * 3
    killed = time.monotonic()
    head.start_gcs_server()
    assert ray.get([task.remote() for _ in range(2)], timeout=BOUND) == [left, left]
    until(lambda: fakes.serving() == serving and fakes.answers())
    seconds["head"] = round(time.monotonic() - killed, 1)
    assert fakes.gang() == []
    print(seconds)  # with pytest -s

"""Real Ray with two nodes: a run continues when one is preempted and lost, and grows when a node is added."""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from brew_train.checkpoints.ledger import audit
from brew_train.config import ModelShape, TrainConfig
from brew_train.ray_launcher import run_on_ray
from brew_train.telemetry.recorder import read_run

pytestmark = [
    pytest.mark.real,
    pytest.mark.ray,
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning:ray.data.context"),
]

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_run_continues_after_the_preemption_and_loss_of_a_node(
    cluster: Cluster, config: TrainConfig, bins: dict[str, Path], shape: ModelShape, tmp_path: Path
) -> None:
    second = cluster.add_node(**NODE)
    run = tmp_path / "run"
    stages = [replace(config.stages[0], steps=1_000_000)]  # until the test has seen enough
    elastic = replace(config, workers=2, min_workers=1, checkpoint_every=50, max_failures=5, stages=stages)
    failure: list[BaseException] = []
    done = threading.Event()

    def train() -> None:
        try:
            run_on_ray(elastic, bins=bins, out=run, shape=shape)
        except BaseException as error:
            if not done.is_set():
                failure.append(error)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()

    def events(kind: str) -> list[dict[str, Any]]:
        return [event for event in read_run(run)[1] if event["kind"] == kind]

    def wait_for(what: Any, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert not failure, failure
            assert time.monotonic() < end, read_run(run)[1]
            time.sleep(0.1)

    wait_for(lambda: events("ready"), 90)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int(time.time() * 1000) + 10_000  # what Ray Train waits before it restarts
    client = ray._private.worker.global_worker.gcs_client
    accepted, why = client.drain_node(second.node_id, reason, "taken away", deadline)
    assert accepted, why
    wait_for(lambda: events("noticed"), 30)
    noticed = events("noticed")[0]["step"]
    cluster.remove_node(second, allow_graceful=False)
    wait_for(lambda: len(events("ready")) >= 2, 90)
    assert events("restored")[0]["step"] >= noticed
    cluster.add_node(**NODE)
    wait_for(lambda: len(events("ready")) >= 3, 120)
    again = events("restored")[1]["step"]
    wait_for(lambda: audit(run, {"cpt": 12}).steps > again, 60)  # the workers checkpoint together, and the ledger holds

    assert [event["workers"] for event in events("attempt")] == [2, 1, 2]
    rows, _ = read_run(run)
    assert {row["step"] for row in rows} == set(range(1, max(row["step"] for row in rows) + 1))
    done.set()
    ray.shutdown()  # ends the run, which would continue for hours
    thread.join(timeout=60)  # a `ray.get` that waits in another thread does not always return after ray.shutdown()

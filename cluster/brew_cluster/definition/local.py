"""The cluster on one machine: a Ray node for each of a few nodes of every group, scaled to the machine's cores."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from brew_cluster.definition.config import ClusterConfig
from brew_cluster.definition.local_gateway import LocalGateway, start_gateway
from brew_cluster.definition.pods import JOB_ROLES, ROLE_LABEL, node_labels

__all__ = ["LocalCluster", "LocalNode", "local_file", "local_nodes", "start_local"]

_STORE_BYTES = 128 * 2**20  # object store of each node


@dataclass(frozen=True, kw_only=True)
class LocalNode:
    """A Ray node of this machine.

    Attributes:
        name: Unique name.
        head: Whether it is the head, which runs no tasks.
        cpus: CPUs that it offers; reservations, not cores.
        labels: Its Ray labels, as in production, so that the same programs find it.
    """

    name: str
    head: bool
    cpus: int
    labels: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class LocalCluster:
    """A cluster that runs on this machine.

    Attributes:
        address: For RAY_ADDRESS.
        jobs_url: Of Ray Jobs, for job gateways; its clients need the token.
        token_path: File with the token, for RAY_AUTH_TOKEN_PATH.
        gateway: The job gateway; None if the definition has none.
    """

    address: str
    jobs_url: str
    token_path: Path
    gateway: LocalGateway | None


def local_nodes(config: ClusterConfig, *, cores: int, most: int = 2) -> list[LocalNode]:
    """Return the nodes, the head first. They offer no GPU, because programs would use it.

    Args:
        cores: CPU cores of this machine. Together the nodes offer twice as many, and each at least one.
        most: Largest number of nodes of a group; two are enough to lose one.
    """
    counts = {name: min(max(1, group.min_nodes), group.max_nodes, most) for name, group in config.groups.items()}
    workers = sum(count for name, count in counts.items() if config.groups[name].role != "head")
    cpus = max(1, 2 * cores // max(1, workers))
    nodes = [
        LocalNode(
            name=f"{name}-{number}",
            head=group.role == "head",
            cpus=0 if group.role == "head" else cpus,
            labels=node_labels(name, group),
        )
        for name, group in config.groups.items()
        for number in range(counts[name])
    ]
    return sorted(nodes, key=lambda node: not node.head)


def local_file(config: ClusterConfig, *, cores: int) -> dict[str, Any]:
    """Return the nodes as a document, for people to read."""
    return {"cluster": config.name, "nodes": [asdict(node) for node in local_nodes(config, cores=cores)]}


def start_local(
    nodes: Sequence[LocalNode],
    on_started: Callable[[int], None] = lambda count: None,
    *,
    with_gateway: bool,
) -> LocalCluster:
    """Start the nodes in a session of their own, which outlives this process; `stop_ray` ends it.

    Args:
        nodes: The nodes, the head first.
        on_started: Called after each start, with the number of nodes that run.
        with_gateway: Start a job gateway too.

    Raises:
        UserError: RAY_ADDRESS is set, or a Ray of an earlier command runs.
        BrewError: A node or the gateway did not start; nothing is left running.
    """
    from brew_cluster.ray.local_ray import LOOPBACK, ray_command, refuse_running_ray
    from brew_cluster.ray.session import RaySession
    from brew_platform.ports import free_port

    refuse_running_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    head, *workers = nodes
    session = RaySession.create()
    dashboard_port = free_port()
    try:
        with session.environment(kept=True):
            ray_command(
                "start", "--head", "--port=0", f"--temp-dir={session.folder}",
                "--include-dashboard=true", f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard_port}",
                f"--ray-client-server-port={free_port()}", *_arguments(head),
            )  # fmt: skip
            on_started(1)
            address = (session.folder / "ray_current_cluster").read_text().strip()
            for count, node in enumerate(workers, start=2):  # at the same time, they would choose the same socket files
                ray_command("start", f"--address={address}", *_arguments(node), module="brew_cluster.ray.loopback_node")
                on_started(count)
            jobs_url, gateway = f"http://{LOOPBACK}:{dashboard_port}", None
            if with_gateway:
                cpus = sum(node.cpus for node in nodes if node.labels[ROLE_LABEL] in JOB_ROLES)
                gateway = start_gateway(session.folder / "jobs", jobs_url=jobs_url, cpus=max(1, cpus))
    except BaseException:
        session.stop()
        session.remove()
        raise
    return LocalCluster(address=address, jobs_url=jobs_url, token_path=session.token_path, gateway=gateway)


def _arguments(node: LocalNode) -> list[str]:
    from brew_cluster.ray.local_ray import LOOPBACK

    labels = ",".join(f"{key}={value}" for key, value in node.labels.items())
    return [
        f"--num-cpus={node.cpus}", "--num-gpus=0", f"--labels={labels}", f"--object-store-memory={_STORE_BYTES}",
        f"--node-ip-address={LOOPBACK}", "--disable-usage-stats",
        # Ray's defaults are fixed ports, which are free for one node of a machine only
        "--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip

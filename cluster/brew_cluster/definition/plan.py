"""The plan of a cluster: sizes of its groups, where its programs run, and the effect of the loss of a node."""

import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

from brew_cluster.definition.config import ClusterConfig
from brew_cluster.definition.placement import Node, nodes_of, place
from brew_cluster.definition.programs import Demand, Programs

__all__ = ["ClusterPlan", "GroupPlan", "ProgramPlan", "plan_cluster"]


@dataclass(frozen=True, kw_only=True)
class GroupPlan:
    """The sizes of a group.

    Attributes:
        name: Of the group.
        role: Of the group.
        nodes: Smallest and largest number of nodes.
        gpus: Smallest and largest number of GPUs.
        cpus: Smallest and largest number of CPU cores.
        price_per_hour: Smallest and largest price; None if the price of a node is not set.
        loss: What happens when a node of the group is lost.
    """

    name: str
    role: str
    nodes: tuple[int, int]
    gpus: tuple[int, int]
    cpus: tuple[int, int]
    price_per_hour: tuple[float, float] | None
    loss: str


@dataclass(frozen=True, kw_only=True)
class ProgramPlan:
    """Where a program runs, on a cluster of the largest size.

    Attributes:
        program: Its name.
        processes: Initial number of processes, and the number up to which autoscaling goes.
        size: Resources of a process.
        nodes: Number of nodes that the initial processes take, by group.
        missing: Processes without a node.
    """

    program: str
    processes: tuple[int, int]
    size: str
    nodes: dict[str, int]
    missing: int


@dataclass(frozen=True, kw_only=True)
class ClusterPlan:
    """A plan.

    Attributes:
        name: Of the cluster.
        gpus: Total that the cluster may have.
        groups: Sizes of the groups.
        programs: Where the programs run.
    """

    name: str
    gpus: int
    groups: list[GroupPlan]
    programs: list[ProgramPlan]

    def as_json(self) -> dict[str, Any]:
        """Return the plan as values that JSON can represent."""
        return asdict(self)


def plan_cluster(config: ClusterConfig, programs: Programs) -> ClusterPlan:
    """Plan a cluster. Nothing is started or asked."""
    demands = programs.demands()
    largest = nodes_of(config, largest=True)
    groups = {node.name: node.group for node in largest}
    placed = place(largest, demands)
    return ClusterPlan(
        name=config.name,
        gpus=config.gpus,
        groups=[
            GroupPlan(
                name=name,
                role=group.role,
                nodes=(group.min_nodes, group.max_nodes),
                gpus=(group.min_nodes * group.gpus, group.max_nodes * group.gpus),
                cpus=(group.min_nodes * group.cpus, group.max_nodes * group.cpus),
                price_per_hour=None
                if group.price_per_hour is None
                else (group.min_nodes * group.price_per_hour, group.max_nodes * group.price_per_hour),
                loss=_loss(config, programs, name),
            )
            for name, group in config.groups.items()
        ],
        programs=[
            ProgramPlan(
                program=demand.program,
                processes=(demand.count, demand.most),
                size=f"{demand.gpus:g} GPUs" if demand.gpus else f"{demand.cpus:g} CPUs",
                nodes=dict(Counter(groups[name] for name in set(placed.nodes[demand.program]))),
                missing=placed.missing[demand.program],
            )
            for demand in demands
        ],
    )


def _loss(config: ClusterConfig, programs: Programs, name: str) -> str:
    """Return what happens when a node of a group is lost."""
    group = config.groups[name]
    if group.role == "head":
        if config.redis is None:
            return "the cluster ends, and everything on it; set redis to survive it"
        return "a new head continues from Redis; running replicas answer meanwhile"
    demand = next((demand for demand in programs.demands() if demand.role == group.role), None)
    if group.role == "data" or demand is None:
        return "Ray runs lost tasks again on other nodes; the autoscaler adds a node"
    smallest, largest = nodes_of(config, largest=False), nodes_of(config, largest=True)
    if group.role == "train":
        return _training_loss(programs, demand, _without(largest, name))
    if _fits(_without(smallest, name), demand):
        return "its replicas start on the other nodes that are always up"
    if _fits(_without(largest, name), demand):
        return "its replicas start on a node that the autoscaler adds"
    return "its replicas are missing until the node is replaced"


def _training_loss(programs: Programs, demand: Demand, rest: list[Node]) -> str:
    if _fits(rest, demand):
        return "training restarts from its checkpoint on a spare node"
    least = programs.training and programs.training.train.min_workers
    if least and _fits(rest, replace(demand, count=least)):
        slots = sum(
            math.floor(min(node.cpus / demand.cpus, node.gpus / demand.gpus if demand.gpus else math.inf))
            for node in rest
            if node.role == demand.role
        )
        return f"training continues from its checkpoint on {min(slots, demand.count)} of {demand.count} workers"
    return "training waits for a replacement, then restarts from its checkpoint"


def _without(nodes: list[Node], group: str) -> list[Node]:
    """Return the nodes without one of a group."""
    lost = next((node for node in nodes if node.group == group), None)
    return [node for node in nodes if node is not lost]


def _fits(nodes: list[Node], demand: Demand) -> bool:
    return place(nodes, [demand]).complete

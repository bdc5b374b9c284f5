"""Placement of programs on nodes, simulated: gangs whole or not at all, each process on one node of its role.

`brew360 cluster plan` and the checks use it. Like Ray's own scheduler, it packs: the fullest node that fits is taken.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from brew_cluster.definition.config import ClusterConfig
from brew_cluster.definition.programs import Demand

__all__ = ["Node", "Placement", "nodes_of", "place"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A Ray node.

    Attributes:
        name: Unique name.
        group: Name of its group.
        role: Role of its group.
        cpus: CPUs that programs may reserve.
        gpus: GPUs that programs may reserve.
    """

    name: str
    group: str
    role: str
    cpus: float
    gpus: float


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where programs run.

    Attributes:
        nodes: Node names of the processes of each program.
        missing: Number of processes of each program that have no node; a gang is missing as a whole.
    """

    nodes: dict[str, list[str]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every process has a node."""
        return not any(self.missing.values())


def nodes_of(config: ClusterConfig, *, largest: bool) -> list[Node]:
    """Return the nodes of a cluster.

    Args:
        largest: With max_nodes of each group, else with min_nodes.
    """
    return [
        Node(
            name=f"{name}-{number}",
            group=name,
            role=group.role,
            cpus=0 if group.role == "head" else group.cpus,
            gpus=0 if group.role == "head" else group.gpus,
        )
        for name, group in config.groups.items()
        for number in range(group.max_nodes if largest else group.min_nodes)
    ]


def place(nodes: Iterable[Node], demands: Sequence[Demand], *, most: bool = False) -> Placement:
    """Place the processes of all demands, in their order.

    Args:
        nodes: The nodes; all of them are free.
        demands: What to place.
        most: Place the numbers up to which autoscaling goes, instead of the initial ones.
    """
    nodes = list(nodes)
    cpus, gpus = {node.name: node.cpus for node in nodes}, {node.name: node.gpus for node in nodes}
    placed: dict[str, list[str]] = {}
    missing: dict[str, int] = {}
    for demand in demands:
        names = [node.name for node in nodes if node.role == demand.role]
        count = demand.most if most else demand.count
        chosen: list[str] = []
        while len(chosen) < count:
            fitting = [name for name in names if cpus[name] >= demand.cpus and gpus[name] >= demand.gpus]
            if not fitting:
                break
            name = min(fitting, key=lambda name: (gpus[name], cpus[name]))
            _take(name, demand, cpus, gpus, 1)
            chosen.append(name)
        if demand.gang and len(chosen) < count:
            for name in chosen:
                _take(name, demand, cpus, gpus, -1)
            chosen = []
        placed[demand.program] = chosen
        missing[demand.program] = count - len(chosen)
    return Placement(nodes=placed, missing=missing)


def _take(name: str, demand: Demand, cpus: dict[str, float], gpus: dict[str, float], sign: int) -> None:
    cpus[name] -= sign * demand.cpus
    gpus[name] -= sign * demand.gpus

"""Kueue's objects (API v1beta2, the only one that Kueue 0.20 serves): quotas of teams, and priorities of jobs.

Source: Kueue, "ClusterQueue", "Run a RayJob". All teams are one cohort: unused quota can be borrowed, and its owner
gets it back by preemption.
"""

import math
from typing import Any

from brew_cluster.definition.config import ClusterConfig, NodeGroup, TeamConfig

__all__ = ["queue_objects"]

_API = "kueue.x-k8s.io/v1beta2"
_GPU = "nvidia.com/gpu"


def queue_objects(config: ClusterConfig) -> list[dict[str, Any]]:
    """Return flavors, cluster queues, local queues and priorities; none without `queues`."""
    if config.queues is None:
        return []
    groups = {name: group for name, group in config.groups.items() if group.role in ("head", "data", "train")}
    objects = [_flavor(config, name, group) for name, group in groups.items()]
    for team, quota in config.queues.teams.items():
        objects += [_cluster_queue(config, groups, team, quota), _local_queue(config, team)]
    for priority, value in config.queues.priorities.items():
        objects.append(
            {
                "apiVersion": _API,
                "kind": "WorkloadPriorityClass",
                "metadata": {"name": f"{config.name}-{priority}"},
                "value": value,
                "description": f"{priority} priority of jobs on {config.name}",
            }
        )
    return objects


def _flavor(config: ClusterConfig, name: str, group: NodeGroup) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    if group.node_selector:
        spec["nodeLabels"] = dict(group.node_selector)
    if group.tolerations:
        spec["tolerations"] = [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in group.tolerations]
    return {"apiVersion": _API, "kind": "ResourceFlavor", "metadata": {"name": f"{config.name}-{name}"}, "spec": spec}


def _cluster_queue(config: ClusterConfig, groups: dict[str, NodeGroup], team: str, quota: TeamConfig) -> dict[str, Any]:
    # A job is never admitted if one of its resources is covered by no flavor, so that InfiniBand has a quota too.
    fabrics = sorted({group.infiniband.resource for group in groups.values() if group.infiniband})
    resources = ["cpu", "memory", _GPU, *fabrics]
    gpu_groups = [group for group in groups.values() if group.gpus]
    flavors = []
    for name, group in groups.items():
        shares = _quota(group, quota, len(gpu_groups), len(groups) - len(gpu_groups))
        entries = []
        for resource in resources:
            nominal, borrowed = shares.get(resource, ("0", "0"))
            entries.append({"name": resource, "nominalQuota": nominal, "borrowingLimit": borrowed})
        flavors.append({"name": f"{config.name}-{name}", "resources": entries})
    return {
        "apiVersion": _API,
        "kind": "ClusterQueue",
        "metadata": {"name": f"{config.name}-{team}"},
        "spec": {
            "cohortName": config.name,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": config.namespace}},
            "queueingStrategy": "BestEffortFIFO",
            "preemption": {"reclaimWithinCohort": "Any", "withinClusterQueue": "LowerPriority"},
            "resourceGroups": [{"coveredResources": resources, "flavors": flavors}],
        },
    }


def _quota(group: NodeGroup, quota: TeamConfig, gpu_groups: int, cpu_groups: int) -> dict[str, tuple[str, str]]:
    """Return nominal quota and borrowing limit of a group's flavor, by resource. Groups of a kind share equally."""
    if not group.gpus:
        return {
            "cpu": (str(quota.cpus // cpu_groups), "0"),
            "memory": (f"{quota.memory_gib // cpu_groups}Gi", "0"),
        }
    nodes = [math.ceil(gpus / gpu_groups / group.gpus) for gpus in (quota.gpus, quota.borrow_gpus)]
    found = {
        "cpu": (str(nodes[0] * group.cpus), str(nodes[1] * group.cpus)),
        "memory": (f"{int(nodes[0] * group.memory_gib)}Gi", f"{int(nodes[1] * group.memory_gib)}Gi"),
        _GPU: (str(nodes[0] * group.gpus), str(nodes[1] * group.gpus)),
    }
    if group.infiniband is not None:
        found[group.infiniband.resource] = (str(nodes[0]), str(nodes[1]))
    return found


def _local_queue(config: ClusterConfig, team: str) -> dict[str, Any]:
    return {
        "apiVersion": _API,
        "kind": "LocalQueue",
        "metadata": {"name": team, "namespace": config.namespace},
        "spec": {"clusterQueue": f"{config.name}-{team}"},
    }

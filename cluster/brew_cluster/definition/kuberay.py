"""KubeRay's objects: RayCluster, RayJob and RayService (API v1 of KubeRay 1.7).

Sources: the CRDs of KubeRay 1.7; Ray on Kubernetes, "GCS fault tolerance", "Autoscaling", "Token authentication" and
"Configuring mTLS for RayClusters"; Kueue, "Run a RayJob".
"""

from dataclasses import replace
from typing import Any

from brew_cluster.definition.config import ClusterConfig, NodeGroup
from brew_cluster.definition.manifest_text import manifest_text
from brew_cluster.definition.pods import JOB_ROLES, node_labels, pod_template, ray_parameters
from brew_cluster.definition.programs import Programs

__all__ = ["operator_values", "ray_cluster", "ray_job", "ray_service"]

_API = "ray.io/v1"
_HEAD_LOST_SECONDS = 600  # how long workers wait for a new head
_RETRIES = 3  # of a job whose cluster is lost, each with new nodes
_KEPT_SECONDS = 3_600  # that a finished job and its nodes are kept for its logs
_FEATURES = {
    "RayClusterStatusConditions": True,
    "RayJobDeletionPolicy": True,
    "RayMultiHostIndexing": True,
    "RayServiceIncrementalUpgrade": False,
    "RayCronJob": False,
    "RayClusterNetworkPolicy": False,
}  # all gates of KubeRay 1.7's chart, because a list of gates replaces the chart's


def operator_values(config: ClusterConfig) -> dict[str, Any]:
    """Return the values of the KubeRay operator's Helm chart. Encryption is behind a feature gate of the operator."""
    gates = {**_FEATURES, "RayClusterMTLS": config.tls}
    return {"featureGates": [{"name": name, "enabled": enabled} for name, enabled in gates.items()]}


def ray_cluster(config: ClusterConfig, programs: Programs) -> dict[str, Any]:
    """Return the RayCluster of the topology `shared`, with all groups."""
    return {
        "apiVersion": _API,
        "kind": "RayCluster",
        "metadata": {"name": config.name, "namespace": config.namespace},
        "spec": _cluster_spec(config, config.groups, programs, autoscaling=True),
    }


def ray_service(config: ClusterConfig, programs: Programs) -> dict[str, Any]:
    """Return the RayService of the topology `separate`: a head and the serving groups.

    A changed image or group makes KubeRay start a second cluster and switch to it, if the GPUs suffice for both; else
    it changes nothing until the RayService is created again. New model versions need neither.
    """
    groups = _groups(config, "head", "nearline", "online")
    used = sum(group.min_nodes * group.gpus for group in groups.values())
    limit = sum(group.max_nodes * group.gpus for group in groups.values())
    return {
        "apiVersion": _API,
        "kind": "RayService",
        "metadata": {"name": config.name, "namespace": config.namespace},
        "spec": {
            "excludeHeadPodFromServeSvc": True,
            "rayClusterDeletionDelaySeconds": 120,  # for requests on the way to the old cluster
            "upgradeStrategy": {"type": "NewCluster" if 2 * used <= limit else "None"},
            "serveConfigV2": manifest_text(programs.serve_config()),
            "rayClusterConfig": _cluster_spec(config, groups, programs, autoscaling=True),
        },
    }


def ray_job(config: ClusterConfig, programs: Programs) -> dict[str, Any]:
    """Return the training job: on the shared cluster, or with nodes of its own that Kueue admits together."""
    metadata: dict[str, Any] = {"name": f"{config.name}-train", "namespace": config.namespace}
    spec: dict[str, Any] = {
        "entrypoint": programs.training_command(),
        "submissionMode": "HTTPMode",  # the operator submits; no further pod needs access to the head
    }
    if config.topology == "shared":  # `brew360 train` itself restarts a lost driver
        spec |= {"clusterSelector": {"ray.io/cluster": config.name}, "shutdownAfterJobFinishes": False}
    else:
        spec |= {
            "backoffLimit": _RETRIES,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "rayClusterSpec": _cluster_spec(config, _job_groups(config, programs), programs, autoscaling=False),
        }
        if config.queues is not None and config.queues.teams:
            metadata["labels"] = {
                "kueue.x-k8s.io/queue-name": next(iter(config.queues.teams)),
                "kueue.x-k8s.io/priority-class": f"{config.name}-{next(iter(config.queues.priorities))}",
            }
            spec["suspend"] = True  # until Kueue admits it
    return {"apiVersion": _API, "kind": "RayJob", "metadata": metadata, "spec": spec}


def _job_groups(config: ClusterConfig, programs: Programs) -> dict[str, NodeGroup]:
    """Return the groups of a training job's own cluster; its nodes are as many as its workers need."""
    groups = _groups(config, "head", *JOB_ROLES)
    for name, group in groups.items():
        if group.role == "train":
            nodes = programs.training_nodes(group) or max(1, group.min_nodes)
            groups[name] = replace(group, min_nodes=nodes, max_nodes=max(nodes, group.max_nodes))
    return groups


def _groups(config: ClusterConfig, *roles: str) -> dict[str, NodeGroup]:
    return {name: group for name, group in config.groups.items() if group.role in roles}


def _cluster_spec(
    config: ClusterConfig, groups: dict[str, NodeGroup], programs: Programs, *, autoscaling: bool
) -> dict[str, Any]:
    [(head_name, head)] = [(name, group) for name, group in groups.items() if group.role == "head"]
    spec: dict[str, Any] = {
        "rayVersion": config.ray_version,
        "enableInTreeAutoscaling": autoscaling,
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "labels": node_labels(head_name, head),
            "rayStartParams": ray_parameters(head),
            "template": pod_template(config, head_name, head, port=programs.port),
        },
        "workerGroupSpecs": [
            _worker_group(config, name, group, programs) for name, group in groups.items() if group.role != "head"
        ],
    }
    if config.token:
        spec["authOptions"] = {"mode": "token"}
    if config.tls:
        spec["tlsOptions"] = {"enabled": True}
    if autoscaling:
        spec["autoscalerOptions"] = {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": max(group.idle_seconds for group in groups.values()),
            "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    if config.redis is not None:
        options: dict[str, Any] = {"redisAddress": config.redis.address}
        if config.redis.secret is not None:
            reference = {"name": config.redis.secret, "key": "password"}
            options["redisPassword"] = {"valueFrom": {"secretKeyRef": reference}}
        spec["gcsFaultToleranceOptions"] = options
        for template in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            [container] = template["template"]["spec"]["containers"]
            container["env"].append(
                {"name": "RAY_gcs_rpc_server_reconnect_timeout_s", "value": str(_HEAD_LOST_SECONDS)}
            )
    return spec


def _worker_group(config: ClusterConfig, name: str, group: NodeGroup, programs: Programs) -> dict[str, Any]:
    return {
        "groupName": name,
        "replicas": group.min_nodes,
        "minReplicas": group.min_nodes,
        "maxReplicas": group.max_nodes,
        "idleTimeoutSeconds": group.idle_seconds,
        "labels": node_labels(name, group),
        "rayStartParams": ray_parameters(group),
        "template": pod_template(config, name, group, port=programs.port),
    }

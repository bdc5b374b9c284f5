"""Pod templates of node groups: resources, environment, mounts, and the least privileges that they need.

A pod has one container, one Ray node. Requests equal limits, so that a node is never short of what Ray believes it has.
Sources: Ray on Kubernetes, "Configuring RayCluster"; NCCL, "Environment Variables".
"""

from typing import Any

from brew_cluster.definition.config import ClusterConfig, NodeGroup

__all__ = [
    "CLUSTER_LABEL",
    "GROUP_LABEL",
    "JOB_ROLES",
    "ROLE_LABEL",
    "SERVE_ROLES",
    "USER",
    "environment",
    "node_labels",
    "pod_placement",
    "pod_security",
    "pod_template",
    "ray_parameters",
    "s3_credentials",
]

CLUSTER_LABEL = "app.kubernetes.io/part-of"  # of all pods of a cluster; its value is the cluster's name
GROUP_LABEL = "brew360/group"  # of Ray nodes and pods: name of the node group
ROLE_LABEL = "brew360/role"  # of Ray nodes and pods: role of the node group; programs select nodes by it
USER = 1000  # of the processes in the images
SERVE_ROLES = ("nearline", "online")
JOB_ROLES = ("data", "train")  # of the nodes on which jobs run
_NEVER_EVICTED = ("head", "train")  # by the consolidation of machines, which would restart training
_STORE_SHARE = 0.7  # of /dev/shm for Ray's object store; the rest is for NCCL and PyTorch's queues
_DRAIN_SECONDS = 120  # for a replica to finish its requests, and for Ray to stop
_GIB = 2**30


def node_labels(name: str, group: NodeGroup) -> dict[str, str]:
    """Return the Ray labels of a group's nodes."""
    return {GROUP_LABEL: name, ROLE_LABEL: group.role}


def ray_parameters(group: NodeGroup) -> dict[str, str]:
    """Return the arguments of `ray start`, as text. The head runs no tasks, so that they cannot end the cluster."""
    parameters = {"object-store-memory": str(int(group.shared_memory_gib * _STORE_SHARE * _GIB))}
    if group.role == "head":
        return {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0", **parameters}  # noqa: S104
    return {"num-cpus": str(group.cpus), "num-gpus": str(group.gpus), **parameters}


def environment(config: ClusterConfig, group: NodeGroup) -> dict[str, str]:
    """Return the environment variables of a group's processes, without secrets."""
    variables = {"RAY_TRAIN_V2_ENABLED": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    if config.s3 is not None:
        optional = {"AWS_ENDPOINT_URL": config.s3.endpoint, "AWS_DEFAULT_REGION": config.s3.region}
        variables |= {name: value for name, value in optional.items() if value is not None}
    if group.gpus:
        variables |= {"NCCL_DEBUG": "WARN"}
    if (fabric := group.infiniband) is not None:
        variables |= {
            "NCCL_IB_HCA": fabric.hcas,
            "NCCL_SOCKET_IFNAME": fabric.interface,
            "GLOO_SOCKET_IFNAME": fabric.interface,
        }
        if fabric.gid_index is not None:
            variables["NCCL_IB_GID_INDEX"] = str(fabric.gid_index)
    return variables | group.environment


def pod_template(config: ClusterConfig, name: str, group: NodeGroup, *, port: int) -> dict[str, Any]:
    """Return the pod template of a group.

    Args:
        name: Of the group.
        port: On which the ranking service listens.
    """
    head = group.role == "head"
    spec: dict[str, Any] = {
        "serviceAccountName": f"{config.name}-head" if head else config.name,
        "automountServiceAccountToken": head,  # the autoscaler, on the head, asks Kubernetes for pods
        "priorityClassName": f"{config.name}-{name}",
        "terminationGracePeriodSeconds": _DRAIN_SECONDS,
        "securityContext": pod_security(),
        "containers": [_container(config, group, port)],
        "volumes": _volumes(config, group),
    }
    spec |= pod_placement(config, group)
    labels = {CLUSTER_LABEL: config.name, **node_labels(name, group)}
    metadata: dict[str, Any] = {"labels": labels}
    if group.role in _NEVER_EVICTED:
        metadata["annotations"] = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    return {"metadata": metadata, "spec": spec}


def pod_security() -> dict[str, Any]:
    """Return the security context of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",  # else every start walks through all files of a mount
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def pod_placement(config: ClusterConfig, group: NodeGroup) -> dict[str, Any]:
    """Return the fields of a pod that runs on the machines of a group: pull secret, node selector and tolerations."""
    spec: dict[str, Any] = {}
    if config.pull_secret is not None:
        spec["imagePullSecrets"] = [{"name": config.pull_secret}]
    if group.node_selector:
        spec["nodeSelector"] = dict(group.node_selector)
    if group.tolerations:
        spec["tolerations"] = [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in group.tolerations]
    return spec


def s3_credentials(config: ClusterConfig) -> list[dict[str, Any]]:
    """Return the environment variables with the credentials of object storage, from their secret."""
    if config.s3 is None or config.s3.secret is None:
        return []
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": config.s3.secret, "key": name}}}
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    ]


def _container(config: ClusterConfig, group: NodeGroup, port: int) -> dict[str, Any]:
    head = group.role == "head"
    resources: dict[str, Any] = {"cpu": str(group.cpus), "memory": f"{int(group.memory_gib * 1024)}Mi"}
    if group.gpus:
        resources["nvidia.com/gpu"] = str(group.gpus)
    capabilities: dict[str, Any] = {"drop": ["ALL"]}
    if group.infiniband is not None:
        resources[group.infiniband.resource] = "1"
        capabilities["add"] = ["IPC_LOCK"]  # RDMA pins memory
    container: dict[str, Any] = {
        "name": "ray-head" if head else "ray-worker",
        "image": config.images[group.image],
        "resources": {"requests": resources, "limits": dict(resources)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": capabilities},
        "env": _env(config, group),
        "volumeMounts": _volume_mounts(config),
    }
    ports = [{"name": "metrics", "containerPort": 8080}]
    if head:
        ports += [
            {"name": "gcs-server", "containerPort": 6379},
            {"name": "dashboard", "containerPort": 8265},
            {"name": "client", "containerPort": 10001},
        ]
    if group.role in SERVE_ROLES:
        ports.append({"name": "serve", "containerPort": port})
    container["ports"] = ports
    if group.role == "online":  # only nodes with a proxy take requests
        container["readinessProbe"] = {
            "httpGet": {"path": "/-/healthz", "port": port},
            "periodSeconds": 5,
            "failureThreshold": 3,
        }
    return container


def _env(config: ClusterConfig, group: NodeGroup) -> list[dict[str, Any]]:
    variables: list[dict[str, Any]] = [
        {"name": name, "value": value} for name, value in sorted(environment(config, group).items())
    ]
    return variables + s3_credentials(config)


def _volume_mounts(config: ClusterConfig) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [{"name": "shared-memory", "mountPath": "/dev/shm"}]  # noqa: S108
    for name, mount in config.mounts.items():
        mounts.append({"name": name, "mountPath": mount.path, **({"readOnly": True} if mount.read_only else {})})
    if config.cache is not None:
        mounts.append({"name": "host-cache", "mountPath": config.cache.path})
    for name, path in config.secrets.items():
        mounts.append({"name": f"secret-{name}", "mountPath": path, "readOnly": True})
    return mounts


def _volumes(config: ClusterConfig, group: NodeGroup) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {
            "name": "shared-memory",
            "emptyDir": {"medium": "Memory", "sizeLimit": f"{int(group.shared_memory_gib * 1024)}Mi"},
        }
    ]
    for name, mount in config.mounts.items():
        claim: dict[str, Any] = {"claimName": mount.claim, **({"readOnly": True} if mount.read_only else {})}
        volumes.append({"name": name, "persistentVolumeClaim": claim})
    if (cache := config.cache) is not None:
        source: dict[str, Any] = {"emptyDir": {"sizeLimit": f"{cache.size_gib}Gi"}}
        if cache.host_path is not None:
            source = {"hostPath": {"path": cache.host_path, "type": "DirectoryOrCreate"}}
        volumes.append({"name": "host-cache", **source})
    for name in config.secrets:
        volumes.append({"name": f"secret-{name}", "secret": {"secretName": name, "defaultMode": 0o440}})
    return volumes

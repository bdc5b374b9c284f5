"""Kubernetes objects beside the Ray cluster: namespace, access, storage claims, priorities, network policies, service.

Source: Kubernetes, "Network Policies", "Pod Security Standards", "Pod Priority and Preemption".
"""

from collections.abc import Sequence
from typing import Any

from brew_cluster.definition.config import ClusterConfig, EgressConfig
from brew_cluster.definition.job_gateway import gateway_labels
from brew_cluster.definition.pods import CLUSTER_LABEL, ROLE_LABEL

__all__ = [
    "access",
    "disruption_budgets",
    "namespace",
    "network_policies",
    "priority_classes",
    "rank_service",
    "volumes",
]

_PREEMPTING = ("head", "nearline", "online")  # roles whose pods evict pods of a lower priority
_METRIC_PORTS = (8080, 44217, 44227)  # Ray's exporter, the autoscaler, the dashboard
_OPERATOR_PORTS = (8265, 52365)  # Jobs and Serve REST; health of the dashboard agent
_JOBS_PORTS = (8265,)  # of the dashboard: Ray Jobs
_JOB_VERBS = ["get", "list", "watch", "create", "delete"]


def namespace(config: ClusterConfig) -> dict[str, Any]:
    """Return the namespace, with the strictest pod security level that the pods pass."""
    host = config.cache is not None and config.cache.host_path is not None
    rdma = any(group.infiniband for group in config.groups.values())
    level = "privileged" if host or rdma else "baseline"  # baseline forbids host paths and the capability IPC_LOCK
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": config.namespace,
            "labels": {
                "pod-security.kubernetes.io/enforce": level,
                "pod-security.kubernetes.io/warn": "restricted",
            },
        },
    }


def access(config: ClusterConfig) -> list[dict[str, Any]]:
    """Return the service accounts of the pods, and the role of people who submit jobs.

    The workers' account has no rights in Kubernetes. KubeRay binds the head's account to the rights of the autoscaler.
    Submitters can create and delete jobs and read logs. They can neither read secrets nor open a shell in a pod.
    """
    accounts = []
    names = [config.name, f"{config.name}-head"]
    if config.job_gateway is not None:  # a role of the cloud that can write the ledger can be bound to it alone
        names.append(f"{config.name}-jobs")
    for name in names:
        metadata: dict[str, Any] = {"name": name, "namespace": config.namespace}
        if config.service_account_annotations:
            metadata["annotations"] = dict(config.service_account_annotations)
        accounts.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    submitter = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": f"{config.name}-submitter", "namespace": config.namespace},
        "rules": [
            {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": _JOB_VERBS},
            {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["pods", "pods/log", "events"], "verbs": ["get", "list", "watch"]},
        ],
    }
    return [*accounts, submitter]


def volumes(config: ClusterConfig) -> list[dict[str, Any]]:
    """Return the volume claims that the definition creates; several mounts can be of one claim."""
    claims: dict[str, dict[str, Any]] = {}
    for mount in config.mounts.values():
        if mount.create is None:
            continue
        spec: dict[str, Any] = {
            "accessModes": [mount.create.access_mode],
            "resources": {"requests": {"storage": f"{mount.create.size_gib}Gi"}},
        }
        if mount.create.storage_class is not None:
            spec["storageClassName"] = mount.create.storage_class
        metadata = {"name": mount.claim, "namespace": config.namespace}
        claims[mount.claim] = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}
    return list(claims.values())


def priority_classes(config: ClusterConfig) -> list[dict[str, Any]]:
    """Return a priority class for each group. Training and data pods wait for machines and evict nobody."""
    return [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": f"{config.name}-{name}"},
            "value": group.pod_priority,
            "preemptionPolicy": "PreemptLowerPriority" if group.role in _PREEMPTING else "Never",
            "description": f"{group.role} nodes of the cluster {config.name}",
        }
        for name, group in config.groups.items()
    ]


def disruption_budgets(config: ClusterConfig) -> list[dict[str, Any]]:
    """Return budgets that let Kubernetes drain one pod at a time: of the head, a serving role, the job gateway."""
    selectors = {role: _pods(config, role) for role in _PREEMPTING if config.of_role(role)}
    if config.job_gateway is not None:
        selectors["jobs"] = gateway_labels(config)
    return [
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": f"{config.name}-{name}", "namespace": config.namespace},
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}},
        }
        for name, labels in selectors.items()
    ]


def rank_service(config: ClusterConfig, port: int) -> dict[str, Any]:
    """Return the Kubernetes service of the ranking service: the proxies of Ray Serve on the online nodes."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{config.name}-rank", "namespace": config.namespace},
        "spec": {
            "selector": _pods(config, "online"),
            "ports": [{"name": "http", "port": port, "targetPort": port}],
        },
    }


def network_policies(config: ClusterConfig, port: int, jobs_port: int | None) -> list[dict[str, Any]]:
    """Return network policies: everything is denied except the connections that the cluster needs.

    They are objects of Kubernetes, not of KubeRay, so that they exist before the first pod and need no feature gate.

    Args:
        port: Of the ranking service.
        jobs_port: Of the job gateway; None without one.
    """
    network = config.network
    if network is None:
        return []
    everyone = {CLUSTER_LABEL: config.name}
    dns = {
        "to": [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            }
        ],
        "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
    }
    internal = {"podSelector": {"matchLabels": everyone}}
    outside = [dns, *(_to(rule) for rule in network.egress.values())]
    egress: list[dict[str, Any]] = [{"to": [internal]}, *outside]
    head_callers = [_from([network.operator], _OPERATOR_PORTS)]
    if network.gateways:
        head_callers.append(_from(network.gateways, _JOBS_PORTS))
    if jobs_port is not None:
        head_callers.append(
            {"from": [{"podSelector": {"matchLabels": gateway_labels(config)}}], "ports": _tcp(_JOBS_PORTS)}
        )
    policies = [
        _policy(config, "cluster", everyone, ingress=[{"from": [internal]}], egress=egress),
        _policy(
            config, "head", _pods(config, "head"), ingress=head_callers,
            egress=[] if network.api_server is None else [_to(network.api_server)],
        ),
    ]  # fmt: skip
    if network.monitoring is not None:
        policies.append(
            _policy(config, "metrics", everyone, ingress=[_from([network.monitoring], (*_METRIC_PORTS, port))])
        )
    if network.clients:
        policies.append(_policy(config, "clients", _pods(config, "online"), ingress=[_from(network.clients, (port,))]))
    if jobs_port is not None:
        callers = [*network.submitters, *([] if network.monitoring is None else [network.monitoring])]
        head = {"to": [{"podSelector": {"matchLabels": _pods(config, "head")}}], "ports": _tcp(_JOBS_PORTS)}
        policies.append(
            _policy(
                config, "jobs", gateway_labels(config), ingress=[_from(callers, (jobs_port,))] if callers else [],
                egress=[head, *outside],
            )
        )  # fmt: skip
    return policies


def _pods(config: ClusterConfig, role: str) -> dict[str, str]:
    return {CLUSTER_LABEL: config.name, ROLE_LABEL: role}


def _policy(
    config: ClusterConfig,
    name: str,
    pods: dict[str, str],
    *,
    ingress: list[dict[str, Any]],
    egress: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    spec: dict[str, Any] = {"podSelector": {"matchLabels": pods}, "policyTypes": ["Ingress"], "ingress": ingress}
    if egress:
        spec["policyTypes"] = ["Ingress", "Egress"]
        spec["egress"] = egress
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{config.name}-{name}", "namespace": config.namespace},
        "spec": spec,
    }


def _from(namespaces: list[str], ports: tuple[int, ...]) -> dict[str, Any]:
    return {
        "from": [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
            for namespace in namespaces
        ],
        "ports": _tcp(ports),
    }


def _to(rule: EgressConfig) -> dict[str, Any]:
    return {
        "to": [{"ipBlock": {"cidr": rule.cidr}}],
        "ports": _tcp(rule.ports),
    }


def _tcp(ports: Sequence[int]) -> list[dict[str, Any]]:
    return [{"port": port, "protocol": "TCP"} for port in ports]

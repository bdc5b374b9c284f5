"""The job gateway of a cluster: pods beside the Ray cluster, or a container of systemd on the head of `ray up`.

Gateways have no state but the ledger in an object store, so any number of them run, in pods that can be lost. They read
keys from mounted secrets, and have no account in Kubernetes that can do anything.
Sources: Kubernetes, "Configure Liveness, Readiness and Startup Probes", "Pod Topology Spread Constraints", "Pod
Security Standards"; systemd.service(5).
"""

import shlex
from pathlib import PurePosixPath
from typing import Any

from brew_cluster.definition.config import ClusterConfig, JobGatewayConfig, NodeGroup
from brew_cluster.definition.pods import JOB_ROLES, USER, environment, pod_placement, pod_security, s3_credentials
from brew_cluster.gateway.config import GatewayConfig

__all__ = [
    "DERIVED",
    "gateway_arguments",
    "gateway_labels",
    "gateway_objects",
    "gateway_unit",
    "job_cpus",
    "job_gpus",
]

DERIVED = ("host", "ray_address", "keys_path", "signing_key_path", "log_path", "tls_certificate", "tls_key")
_FILES = "/etc/brew360"  # folder of the secrets
_KEYS, _SIGNING, _TOKEN, _TLS = (f"{_FILES}/{name}" for name in ("keys", "signing", "ray", "tls"))
_DRAIN_SECONDS = 30  # for requests, and for the step of the controller
_HEALTH = "/health"  # 200 also while Ray does not answer: submissions are accepted then, so /ready decides nothing here


def job_gpus(config: ClusterConfig) -> int:
    """Return the GPUs of all groups for jobs at their largest sizes."""
    return sum(group.max_nodes * group.gpus for role in JOB_ROLES for group in config.of_role(role).values())


def job_cpus(config: ClusterConfig) -> int:
    """Return the CPU cores of all groups for jobs at their largest sizes."""
    return sum(group.max_nodes * group.cpus for role in JOB_ROLES for group in config.of_role(role).values())


def gateway_labels(config: ClusterConfig) -> dict[str, str]:
    """Return the labels of the gateway's pods.

    They lack the label of the cluster's own pods, because those can open any connection to each other.
    """
    return {"app.kubernetes.io/name": "brew360-jobs", "app.kubernetes.io/instance": config.name}


def gateway_arguments(config: ClusterConfig, *, host: str, ray_address: str) -> list[str]:
    """Return the arguments of `brew360`.

    Args:
        config: A definition with `job_gateway`.
        host: Address to listen on.
        ray_address: Of Ray's dashboard.
    """
    gateway = _gateway(config)
    derived = {
        "host": host,
        "ray_address": ray_address,
        "keys_path": f"{_KEYS}/keys.yaml",
        "signing_key_path": f"{_SIGNING}/signing_key",
        "log_path": "null",  # standard output
    }
    if gateway.tls_secret is not None:
        derived |= {"tls_certificate": f"{_TLS}/tls.crt", "tls_key": f"{_TLS}/tls.key"}
    size = {"gpus": job_gpus(config), "cpus": max(1, job_cpus(config))}
    return ["jobs", "serve", *_pairs(size), *gateway.settings, *_pairs(derived)]


def gateway_objects(config: ClusterConfig, settings: GatewayConfig) -> list[dict[str, Any]]:
    """Return the Deployment and the Service.

    Args:
        config: A definition with `job_gateway`.
        settings: Of the command.
    """
    gateway, labels = _gateway(config), gateway_labels(config)
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": _name(config), "namespace": config.namespace, "labels": labels},
        "spec": {
            "replicas": gateway.replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": labels}, "spec": _pod(config, gateway, settings)},
        },
    }
    name = "http" if gateway.tls_secret is None else "https"
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _name(config), "namespace": config.namespace, "labels": labels},
        "spec": {
            "selector": labels,
            "ports": [{"name": name, "port": settings.port, "targetPort": settings.port}],
        },
    }
    return [deployment, service]


def gateway_unit(config: ClusterConfig, settings: GatewayConfig) -> str:
    """Return a unit of systemd that runs one gateway on the head machine of `ray up`, in a container of its own.

    Without TLS it listens on loopback, for a proxy with TLS.

    Args:
        config: A definition with `job_gateway`.
        settings: Of the command.
    """
    gateway, (_, head) = _gateway(config), _head(config)
    name = _name(config)
    host = "127.0.0.1" if gateway.tls_secret is None else "0.0.0.0"  # noqa: S104
    folders = [f"-v {_FILES}:{_FILES}:ro", *(f"-v {path}:{path}" for _, path in _store_mounts(config, settings))]
    arguments = gateway_arguments(config, host=host, ray_address="http://127.0.0.1:8265")
    command = [
        "/usr/bin/docker run --rm", f"--name {name}", "--network host", f"--user {USER}:{USER}", "--read-only",
        "--tmpfs /tmp", "--cap-drop ALL", "--security-opt no-new-privileges", f"--cpus {gateway.cpus:g}",
        f"--memory {int(gateway.memory_gib * 1024)}m", *folders,
        *(f"-e {_unit_word(f'{key}={value}')}" for key, value in _variables(config).items()),
        _unit_word(config.images[head.image]), "brew360", *map(_unit_word, arguments),
    ]  # fmt: skip
    lines = " \\\n  ".join(command)
    return f"""# The gateway reads these files on the head machine, which user {USER} must be able to read:
#   {_KEYS}/keys.yaml          `brew360 keys create`
#   {_SIGNING}/signing_key     `openssl rand -hex 32`
#   {_TOKEN}/auth_token         the token of the cluster (ray_up.token_file)
# Credentials of object storage are the role of the machine. Install it with:
#   sudo cp {name}.service /etc/systemd/system/ && sudo systemctl enable --now {name}
[Unit]
Description=Job gateway of the cluster {config.name}
Requires=docker.service
After=docker.service network-online.target

[Service]
ExecStartPre=-/usr/bin/docker rm -f {name}
ExecStart={lines}
ExecStop=/usr/bin/docker stop -t {_DRAIN_SECONDS} {name}
Restart=always
RestartSec=5

[Install]
WantedBy=multi-user.target
"""


def _pod(config: ClusterConfig, gateway: JobGatewayConfig, settings: GatewayConfig) -> dict[str, Any]:
    head_name, head = _head(config)
    arguments = gateway_arguments(
        config,
        host="0.0.0.0",  # noqa: S104  behind network policy and keys
        ray_address=f"http://{config.name}-head-svc:8265",  # the service that KubeRay creates
    )
    resources = {"cpu": f"{round(gateway.cpus * 1000)}m", "memory": f"{int(gateway.memory_gib * 1024)}Mi"}
    check = {
        "httpGet": {
            "path": _HEALTH,
            "port": settings.port,
            "scheme": "HTTP" if gateway.tls_secret is None else "HTTPS",
        }
    }
    volumes, mounts = _volumes(config, gateway, settings)
    container = {
        "name": "gateway",
        "image": config.images[head.image],
        "command": ["brew360"],
        "args": arguments,
        "resources": {"requests": resources, "limits": dict(resources)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "env": [{"name": name, "value": value} for name, value in _variables(config).items()] + s3_credentials(config),
        "ports": [{"name": "http", "containerPort": settings.port}],
        # it listens after it has read the ledger
        "startupProbe": {**check, "periodSeconds": 2, "failureThreshold": 90},
        "readinessProbe": {**check, "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**check, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "volumeMounts": mounts,
    }
    return {
        "serviceAccountName": _name(config),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # variables of the namespace's services
        "priorityClassName": f"{config.name}-{head_name}",
        "terminationGracePeriodSeconds": _DRAIN_SECONDS,
        "securityContext": pod_security(),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": gateway_labels(config)},
            }
            for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ],
        "containers": [container],
        "volumes": volumes,
        **pod_placement(config, head),
    }


def _volumes(
    config: ClusterConfig, gateway: JobGatewayConfig, settings: GatewayConfig
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the volumes of a pod and their mounts: secrets, /tmp, and the mount with the ledger, if it is on one."""
    secrets = {
        "keys": (gateway.keys_secret, _KEYS, ["keys.yaml"]),
        "signing": (gateway.signing_secret, _SIGNING, ["signing_key"]),
    }
    if config.token:
        secrets["ray"] = (config.name, _TOKEN, ["auth_token"])  # KubeRay creates it
    if gateway.tls_secret is not None:
        secrets["tls"] = (gateway.tls_secret, _TLS, ["tls.crt", "tls.key"])
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}]
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    for name, (secret, path, keys) in secrets.items():
        items = [{"key": key, "path": key} for key in keys]
        volumes.append({"name": name, "secret": {"secretName": secret, "items": items, "defaultMode": 0o440}})
        mounts.append({"name": name, "mountPath": path, "readOnly": True})
    for name, path in _store_mounts(config, settings):
        volumes.append({"name": f"mount-{name}", "persistentVolumeClaim": {"claimName": config.mounts[name].claim}})
        mounts.append({"name": f"mount-{name}", "mountPath": path})
    return volumes, mounts


def _store_mounts(config: ClusterConfig, settings: GatewayConfig) -> list[tuple[str, str]]:
    """Return the name and the path of the mount that has the ledger; none if it is on S3."""
    store = PurePosixPath(settings.store)
    return [(name, mount.path) for name, mount in config.mounts.items() if store.is_relative_to(mount.path)]


def _variables(config: ClusterConfig) -> dict[str, str]:
    """Return the environment variables of the gateway, without secrets."""
    variables = environment(config, _head(config)[1])
    if config.token:
        variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{_TOKEN}/auth_token"}
    return dict(sorted(variables.items()))


def _gateway(config: ClusterConfig) -> JobGatewayConfig:
    assert config.job_gateway is not None  # callers look
    return config.job_gateway


def _head(config: ClusterConfig) -> tuple[str, NodeGroup]:
    [(name, group)] = config.of_role("head").items()
    return name, group


def _name(config: ClusterConfig) -> str:
    return f"{config.name}-jobs"


def _pairs(values: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _unit_word(text: str) -> str:
    """Quote an argument for systemd, which expands % and $ and unquotes as a shell does."""
    return shlex.quote(text).replace("%", "%%").replace("$", "$$")

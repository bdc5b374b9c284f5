"""The cluster file of `ray up`: machines of a cloud, with Ray in a container on each.

Source: Ray 2.60, `ray/autoscaler/ray-schema.json` and "Cluster YAML Configuration Options".
"""

import shlex
from typing import Any

from brew_cluster.definition.config import ClusterConfig, NodeGroup, RayUpConfig
from brew_cluster.definition.pods import environment, node_labels, ray_parameters
from brew_platform.errors import ConfigError

__all__ = ["ray_up_file"]

_TYPE_FIELDS = {"aws": "InstanceType", "gcp": "machineType", "azure": "vmSize"}  # of Ray's `node_config`
_TOKEN = "/home/ray/.ray/auth_token"  # noqa: S105  path of the token in the containers
_PORT = 6379


def ray_up_file(config: ClusterConfig) -> dict[str, Any]:
    """Return the cluster file.

    Mounts and the host cache are folders that exist on the machines under their paths in the containers: the image of
    the machines, or `ray_up.settings`, provides them.

    Raises:
        ConfigError: The definition has no `ray_up`, or a group has no `instance_type`.
    """
    machines = config.ray_up
    if machines is None:
        raise ConfigError(
            "ray_up has no value, so `ray up` would not know where to start machines. Set ray_up.provider."
        )
    missing = [name for name, group in config.groups.items() if group.instance_type is None]
    if missing:
        raise ConfigError(
            f"groups.{missing[0]}.instance_type has no value. Set it to a machine type of {machines.provider} for each "
            f"group ({', '.join(missing)})."
        )
    [head] = config.of_role("head")
    workers = {name: group for name, group in config.groups.items() if name != head}
    return {
        "cluster_name": config.name,
        "max_workers": sum(group.max_nodes for group in workers.values()),
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": max(group.idle_seconds for group in config.groups.values()) / 60,
        "provider": {"type": machines.provider, "region": machines.region, **machines.settings},
        "auth": {"ssh_user": machines.ssh_user},
        "docker": {
            "image": config.images[config.groups[head].image],
            "container_name": config.name,
            "pull_before_run": True,
            "run_options": _run_options(config, config.groups[head], machines),
        },
        "head_node_type": head,
        "available_node_types": {
            name: _node_type(config, name, group, machines) for name, group in config.groups.items()
        },
        "file_mounts": {_TOKEN: machines.token_file} if config.token else {},
        "head_start_ray_commands": ["ray stop", _start(config, head, config.groups[head])],
        "worker_start_ray_commands": ["ray stop", _worker_start(config)],
    }


def _node_type(config: ClusterConfig, name: str, group: NodeGroup, machines: RayUpConfig) -> dict[str, Any]:
    head = group.role == "head"
    node: dict[str, Any] = {
        "node_config": {_TYPE_FIELDS[machines.provider]: group.instance_type},
        "resources": {"CPU": 0 if head else group.cpus, "GPU": 0 if head else group.gpus},
        "labels": node_labels(name, group),
    }
    if not head:
        node |= {
            "min_workers": group.min_nodes,
            "max_workers": group.max_nodes,
            "idle_timeout_s": group.idle_seconds,
            "docker": {
                "worker_image": config.images[group.image],
                "worker_run_options": _run_options(config, group, machines),
            },
        }
    return node


def _run_options(config: ClusterConfig, group: NodeGroup, machines: RayUpConfig) -> list[str]:
    """Return the options of `docker run` on the machines of a group."""
    folders = [(mount.path, mount.path, mount.read_only) for mount in config.mounts.values()]
    if config.cache is not None:
        folders.append((config.cache.host_path or config.cache.path, config.cache.path, False))
    folders += [(path, path, True) for path in config.secrets.values()]
    variables = environment(config, group)
    if config.token:
        variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": _TOKEN}
    options = [f"--shm-size={int(group.shared_memory_gib * 1024)}m", "--ulimit nofile=65536:65536"]
    if group.infiniband is not None:
        options += ["--device=/dev/infiniband", "--cap-add=IPC_LOCK", "--ulimit memlock=-1:-1"]
    options += [f"-v {source}:{path}{':ro' if read_only else ''}" for source, path, read_only in folders]
    return options + [f"-e {shlex.quote(f'{name}={value}')}" for name, value in sorted(variables.items())]


def _start(config: ClusterConfig, name: str, group: NodeGroup) -> str:
    parameters = {
        **ray_parameters(group),
        "port": str(_PORT),
        "labels": ",".join(f"{key}={value}" for key, value in node_labels(name, group).items()),
    }
    arguments = " ".join(f"--{key}={shlex.quote(value)}" for key, value in parameters.items())
    redis = "" if config.redis is None else f"RAY_REDIS_ADDRESS={shlex.quote(_redis_host(config.redis.address))} "
    return f"{redis}ray start --head --autoscaling-config=~/ray_bootstrap_config.yaml {arguments}"


def _worker_start(config: ClusterConfig) -> str:
    # Labels and resources of a worker come from its node type: the autoscaler puts them into the environment.
    return f"ray start --address=$RAY_HEAD_IP:{_PORT}"


def _redis_host(address: str) -> str:
    return address.removeprefix("redis://") if address.startswith("redis://") else address

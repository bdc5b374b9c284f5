"""The programs of a cluster definition: what training and serving need from the nodes, and how they are started."""

import dataclasses
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from brew_cluster.definition.config import ClusterConfig, NodeGroup
from brew_cluster.definition.pods import ROLE_LABEL
from brew_cluster.gateway.config import GatewayConfig, load_gateway
from brew_cluster.jobs.serve_job import ServeJob, load_serve
from brew_cluster.jobs.train_job import TrainJob, load_job
from brew_platform.errors import ConfigError
from brew_serve.config import AppConfig

__all__ = ["Demand", "Programs", "load_programs"]

_DEFAULT_PORT = 8_000
_APPLICATION = "brew_serve.deployment.config_application:application"


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Processes that a program places on the nodes of a role.

    Attributes:
        program: Name for messages.
        role: Role of the groups whose nodes take them.
        count: Number of processes.
        most: Number up to which autoscaling goes.
        cpus: CPUs of each.
        gpus: GPUs of each, all of one node.
        gang: All run, or none.
    """

    program: str
    role: str
    count: int
    most: int
    cpus: float
    gpus: float
    gang: bool = False


@dataclass(frozen=True, kw_only=True)
class Programs:
    """The settings of the programs of a cluster.

    Attributes:
        config: The definition.
        training: Settings of training.
        service: Settings of the ranking service.
        job_gateway: Settings of the job gateway, without those that the renderings derive.
    """

    config: ClusterConfig
    training: TrainJob | None
    service: ServeJob | None
    job_gateway: GatewayConfig | None

    @property
    def port(self) -> int:
        """The port of the ranking service on nodes with a proxy."""
        return _DEFAULT_PORT if self.service is None else self.service.port

    def demands(self) -> list[Demand]:
        """Return what the programs place, training first."""
        found = []
        if self.training is not None:
            train = self.training.train
            found.append(
                Demand(
                    program="training", role="train", count=train.workers, most=train.workers, cpus=train.threads,
                    gpus=1 if self._has_gpus("train") else 0, gang=True,
                )
            )  # fmt: skip
        if (service := self.service) is not None:
            found.append(
                Demand(
                    program="online service", role="online", count=service.min_replicas, most=service.max_replicas,
                    cpus=service.cpus, gpus=service.gpus,
                )
            )  # fmt: skip
            if (nearline := service.nearline) is not None:
                found.append(
                    Demand(
                        program="nearline service", role="nearline", count=nearline.min_consumers,
                        most=nearline.max_consumers, cpus=nearline.cpus, gpus=nearline.gpus,
                    )
                )  # fmt: skip
        return found

    def paths(self) -> Iterator[tuple[str, str]]:
        """Yield the settings that name files or folders of other nodes, and their values."""
        if (service := self.service) is not None:
            yield "service.registry_url", service.registry_url
            for name, path in (
                ("context_path", service.context_path),
                ("middleware.keys_path", service.middleware.keys_path),
            ):
                if path is not None:
                    yield f"service.{name}", path
        if (gateway := self.job_gateway) is not None:
            yield "job_gateway.store", gateway.store
            yield "job_gateway.folder", gateway.folder
        if (training := self.training) is not None:
            yield "training.run", training.run
            for name, path in (("prompts", training.prompts), *training.bins.items(), *training.evaluation.items()):
                yield f"training.{name}", path
            if training.train.model.init_from is not None:
                yield "training.train.model.init_from", training.train.model.init_from

    def training_nodes(self, group: NodeGroup) -> int | None:
        """Return the number of nodes of `group` that all workers need; None without training."""
        if self.training is None:
            return None
        train = self.training.train
        per_node = group.gpus if group.gpus else max(1, group.cpus // train.threads)
        return math.ceil(train.workers / per_node)

    def training_command(self) -> str:
        """Return the shell command that trains on the cluster."""
        program = self.config.training
        if program is None or program.recipe is None:
            return "brew360 train --help"
        labels = f"train.node_labels={{{ROLE_LABEL}: train}}"
        return shlex.join(["brew360", "train", program.recipe, *program.settings, labels])

    def serve_config(self) -> dict[str, Any]:
        """Return the config file of `serve deploy`, with the settings that differ from their defaults.

        Ray Serve drops keys that it does not know. The settings of the service are checked when its application is
        built, and unknown ones are refused.
        """
        applications = []
        if self.service is not None:
            nearline = self.service.nearline
            job = replace(
                self.service,
                node_labels=self.service.node_labels or {ROLE_LABEL: "online"},
                nearline=nearline and replace(nearline, node_labels=nearline.node_labels or {ROLE_LABEL: "nearline"}),
            )
            names = {field.name for field in dataclasses.fields(AppConfig)}
            changed = {name: value for name, value in _changed(job).items() if name in names}
            applications.append({"name": "brew360", "route_prefix": "/", "import_path": _APPLICATION, "args": changed})
        return {
            "proxy_location": "EveryNode",
            "http_options": {"host": "0.0.0.0", "port": self.port},  # noqa: S104  behind network policy and keys
            "logging_config": {"encoding": "JSON", "enable_access_log": False},  # gateways write one
            "applications": applications,
        }

    def _has_gpus(self, role: str) -> bool:
        return any(group.gpus for group in self.config.of_role(role).values())


def load_programs(config: ClusterConfig) -> Programs:
    """Load the settings of the programs that a definition names.

    Raises:
        ConfigError: A recipe does not exist, or a setting is unknown or has the wrong type.
    """
    training, service = config.training, config.service
    if training is not None and training.recipe is None:
        raise ConfigError("training.recipe has no value. Name a recipe of `brew360 train`, such as mixtral_8x22b.")
    try:
        job = None if training is None else load_job(str(training.recipe), training.settings)
    except ConfigError as error:
        raise ConfigError(f"training: {error}") from error
    try:
        recipe = [] if service is None or service.recipe is None else [service.recipe]
        app = None if service is None else load_serve([*recipe, *service.settings])
    except ConfigError as error:
        raise ConfigError(f"service: {error}") from error
    try:
        gateway = None if config.job_gateway is None else load_gateway(config.job_gateway.settings)
    except ConfigError as error:
        raise ConfigError(f"job_gateway: {error}") from error
    return Programs(config=config, training=job, service=app, job_gateway=gateway)


def _changed(settings: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults, nested, by their keys."""
    found = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        default = field.default if field.default is not dataclasses.MISSING else None
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required or value != default:
            found[field.name.rstrip("_")] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _changed(value)
    if isinstance(value, dict):
        return {key: _plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below) for below in value]
    return value

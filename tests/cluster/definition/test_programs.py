"""Programs of a definition: what they need from nodes, which nodes they select, and the service from a config file."""

from typing import Any

import pytest

from brew_cluster.definition.local import local_nodes
from brew_platform.config import load_config
from brew_platform.errors import ConfigError
from brew_serve.config import AppConfig
from brew_train.config import TrainConfig

from .conftest import Loaded

ARGS: dict[str, Any] = {"registry_url": "runs/registry", "cache_folder": "runs/versions"}


def selector(app: Any) -> dict[str, str]:
    return app._bound_deployment.ray_actor_options["label_selector"]


SERVE = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


@SERVE
def test_the_application_of_a_config_file_selects_its_nodes() -> None:
    from brew_serve.deployment.config_application import application
    from brew_serve.deployment.replica import replica_app

    app = application({**ARGS, "node_labels": {"brew360/role": "online"}})
    assert selector(app) == {"brew360/role": "online"}
    assert app._bound_deployment.name == "Gateway"
    config = load_config(AppConfig, {**ARGS, "node_labels": {"brew360/role": "online"}})
    assert selector(replica_app(config, 1)) == {"brew360/role": "online"}
    assert selector(application(ARGS)) == {}


@SERVE
def test_unknown_settings_of_a_config_file_are_refused() -> None:
    from brew_serve.deployment.config_application import application

    with pytest.raises(ConfigError, match=r"args\.max_replica .* Did you mean args\.max_replicas"):
        application({**ARGS, "max_replica": 3})


def test_demands_follow_the_settings(h100: Loaded, laptop: Loaded) -> None:
    training, online, nearline = h100[1].demands()
    assert (training.count, training.gpus, training.gang) == (256, 1, True)
    assert (online.count, online.most, online.gpus, online.role) == (5, 12, 4, "online")
    assert (nearline.count, nearline.most, nearline.gpus, nearline.role) == (2, 4, 4, "nearline")
    training, online = laptop[1].demands()
    assert (training.gpus, training.cpus, online.gpus) == (0, 1, 0)


def test_training_selects_nodes_by_the_label_of_the_definition() -> None:
    assert load_config(TrainConfig, overrides=["node_labels={brew360/role: train}"]).node_labels == {
        "brew360/role": "train"
    }


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_local_nodes_are_a_few_of_every_group_scaled_to_the_cores(h100: Loaded, cores: int) -> None:
    head, *workers = local_nodes(h100[0], cores=cores)
    assert head.head
    assert head.cpus == 0
    assert {node.labels["brew360/group"] for node in workers} == {"data", "train", "nearline", "online"}
    assert [node.name for node in workers if "train" in node.name] == ["train-0", "train-1"]
    assert all(node.cpus >= 1 for node in workers)
    assert sum(node.cpus for node in workers) <= max(2 * cores, len(workers))
    assert len({node.name for node in workers}) == len(workers)

"""The service as an application of a Serve config file: `import_path` of `serve deploy` and of KubeRay's RayService."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray.serve import Application

from brew_platform.config import load_config
from brew_serve.config import AppConfig
from brew_serve.deployment.gateway import gateway_app

__all__ = ["application"]


def application(args: Mapping[str, Any]) -> Application:
    """Return the gateway; its version controller starts the replicas of the version that the alias names.

    Args:
        args: The settings of the service (`AppConfig`), as under `args` in the file.

    Raises:
        ConfigError: A setting is unknown, has the wrong type or is out of its range.
    """
    config = load_config(AppConfig, dict(args), key="args")
    return gateway_app(replace(config, log_key=config.log_key or secrets.token_hex(32)))

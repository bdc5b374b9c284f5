"""The online service on Ray Serve: which applications are started in which order, and how a failed start is reported.

HTTP -> Gateway (middleware, forwarding by member) -> replicas of production, and of a canary or a shadow
             | fetches the routes                     nearline consumers of production, if nearline is configured
        VersionController (follows the registry, starts and removes versions)
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from ray import serve
from ray.serve import Application
from ray.serve.config import HTTPOptions

from brew_platform.errors import UserError
from brew_platform.ports import require_free_port
from brew_serve.config import AppConfig
from brew_serve.context.base import MemberContext
from brew_serve.deployment.gateway import gateway_app
from brew_serve.deployment.replica import replica_app
from brew_serve.deployment.version_controller import APP_NAME, consumers_app_name, start_error, version_app_name
from brew_serve.http.auth import KeyFile
from brew_serve.nearline.consumer import consumer_app
from brew_serve.version import load_version

__all__ = ["App", "AppConfig", "build_app", "serve_http"]


@dataclass(frozen=True, kw_only=True)
class App:
    """Serve applications, and whether callers need an API key."""

    applications: dict[str, Application]  # by name, in the order of their start; the gateway's is `APP_NAME`
    keyed: bool


def build_app(config: AppConfig) -> App:
    """Build the applications for `serve_http`.

    The version is also fetched and checked here, so that an error in it is reported at once and by name.

    Raises:
        RegistryError, StorageError: The alias names no version, or its files are missing or damaged.
        UserError: The version, the member context or the key file cannot be used.
    """
    number = config.open_registry().resolve(config.alias)
    load_version(config.fetch(number), config.engine)
    if config.context_path is not None:
        MemberContext(Path(config.context_path)).close()
    if config.middleware.keys_path is not None:
        KeyFile(Path(config.middleware.keys_path))
    applications = {version_app_name(number): replica_app(config, number)}
    if config.nearline is not None:
        applications[consumers_app_name(number)] = consumer_app(config, number)
    applications[APP_NAME] = gateway_app(config)  # last: its controller starts the applications that are missing
    return App(applications=applications, keyed=config.middleware.keys_path is not None)


def serve_http(app: App, port: int, host: str = "127.0.0.1") -> str:
    """Serve `app` over HTTP on a running Ray, and return when it answers.

    Returns:
        The URL, such as http://127.0.0.1:8000.

    Raises:
        UserError: The port is in use, or other machines could send requests without a key.
        BrewError: A replica did not start; its first error, with its original class.
    """
    if not app.keyed and not _is_loopback(host):
        raise UserError(
            f"without API keys the service listens on this machine only, not on {host}: create a key and name its file "
            f"in middleware.keys_path, or serve on 127.0.0.1."
        )
    require_free_port(port, host)
    serve.start(http_options=HTTPOptions(host=host, port=port), proxy_location="HeadOnly")
    for name, application in app.applications.items():
        try:
            serve.run(application, name=name, route_prefix="/" if name == APP_NAME else None, blocking=False)
        except RuntimeError as error:
            failed = serve.status().applications.get(name)
            serve.shutdown()
            raise start_error(failed, str(error)) from error
    return f"http://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

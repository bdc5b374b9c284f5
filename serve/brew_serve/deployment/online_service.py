"""The online service on Ray Serve: which applications are started in which order, and how a failed start is reported.

HTTP -> Gateway (middleware, forwarding by member) -> replicas of production, and of a canary or a shadow
             | fetches the routes                     nearline consumers of production, if nearline is configured
        VersionController (follows the registry, starts and removes versions)
"""

import ipaddress
import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ray import serve
from ray.serve import Application
from ray.serve.config import HTTPOptions

from brew_platform.errors import UserError
from brew_platform.identity.keys import KeyFile
from brew_serve.config import AppConfig
from brew_serve.context.location import check_context
from brew_serve.deployment.applications import delete_applications, find_serve
from brew_serve.deployment.gateway import gateway_app
from brew_serve.deployment.process_log import JSON_LOGS
from brew_serve.deployment.replica import replica_app
from brew_serve.deployment.version_controller import APP_NAME, consumers_app_name, start_error, version_app_name
from brew_serve.http.shared_quota import open_quotas
from brew_serve.metrics import Meters
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
        UserError: The version, the member context, the key of the pseudonyms, the key file or the settings of the
            quotas cannot be used.
        Unavailable: The Redis with the member context does not answer, or contains none.
    """
    config = replace(config, log_key=config.log_key or secrets.token_hex(32))  # the same in all processes
    number = config.open_registry().resolve(config.alias)
    load_version(config.fetch(number), config.engine, config.history)
    pseudonyms = None if config.pseudonyms is None else config.pseudonyms.open()
    contexts = {config.context_path, None if config.nearline is None else config.nearline.context_path}
    for location in contexts - {None}:
        check_context(str(location), pseudonyms)
    if config.middleware.keys_path is not None:
        KeyFile(Path(config.middleware.keys_path))
    open_quotas(config.middleware.quotas, time.monotonic, Meters(), gateways=1)  # does not connect
    applications = {version_app_name(number): replica_app(config, number)}
    if config.nearline is not None:
        applications[consumers_app_name(number)] = consumer_app(config, number)
    applications[APP_NAME] = gateway_app(config)  # last: its controller starts the applications that are missing
    return App(applications=applications, keyed=config.middleware.keys_path is not None)


def serve_http(app: App, port: int, host: str = "127.0.0.1") -> str:
    """Serve `app` over HTTP on a running Ray, and return when it answers. Others' applications keep running.

    Returns:
        The URL, such as http://127.0.0.1:8000.

    Raises:
        UserError: The port is in use, other machines could send requests without a key, or the Ray has this service
            already, or serves on another address.
        BrewError: A replica did not start; its first error, with its original class.
    """
    if not app.keyed and not _is_loopback(host):
        raise UserError(
            f"without API keys the service listens on this machine only, not on {host}: create a key and name its file "
            f"in middleware.keys_path, or serve on 127.0.0.1."
        )
    if not find_serve(port, host):
        serve.start(
            http_options=HTTPOptions(host=host, port=port),
            proxy_location="HeadOnly" if _is_loopback(host) else "EveryNode",  # every node that has a replica
            logging_config=JSON_LOGS,
        )
    for name, application in app.applications.items():
        try:
            serve.run(application, name=name, route_prefix="/" if name == APP_NAME else None, blocking=False)
        except RuntimeError as error:
            failed = serve.status().applications.get(name)
            delete_applications()
            raise start_error(failed, str(error)) from error
        except BaseException:  # also Ctrl-C, and a route that another application has
            delete_applications(wait=False)
            raise
    return f"http://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

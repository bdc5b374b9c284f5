"""The online service on Ray Serve: what is started in which order, and how a failed start reads.

    HTTP -> Gateway (edge, split by member) -> Ranker replicas of production, and of a canary or a shadow
                 ^ asks for the routes         NearlineConsumer replicas of production, where there is a nearline plane
               Fleet (follows the registry, starts and removes versions)

Owns: that. Does not own: these four (`gateway`, `ranker`, `nearline.consumer`, `fleet`).
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
from brew_serve.deployment.replica import ranker_app
from brew_serve.deployment.version_apps import start_error
from brew_serve.deployment.version_controller import APP_NAME, consumers_name, version_app
from brew_serve.http.auth import KeyFile
from brew_serve.nearline.consumer import consumer_app
from brew_serve.version import load_version

__all__ = ["App", "AppConfig", "build_app", "serve_http"]


@dataclass(frozen=True, kw_only=True)
class App:
    """Serve applications, and whether those who ask them must have a key."""

    applications: dict[str, Application]  # by name, in the order of their start; the gateway's is `APP_NAME`
    keyed: bool


def build_app(config: AppConfig) -> App:
    """The applications, ready for `serve_http`.

    The version is fetched and checked here too, so that what is wrong with it is said at once and by name.

    Raises:
        RegistryError, StorageError: the alias leads to no version, or its files are missing or damaged.
        UserError: the version, the member context or the key file cannot be used.
    """
    number = config.open_registry().resolve(config.alias)
    load_version(config.fetch(number), config.engine)
    if config.context_path is not None:
        MemberContext(Path(config.context_path)).close()
    if config.edge.keys_path is not None:
        KeyFile(Path(config.edge.keys_path))
    applications = {version_app(number): ranker_app(config, number)}
    if config.nearline is not None:
        applications[consumers_name(number)] = consumer_app(config, number)
    applications[APP_NAME] = gateway_app(config)  # last: its fleet starts what it does not find
    return App(applications=applications, keyed=config.edge.keys_path is not None)


def serve_http(app: App, port: int, host: str = "127.0.0.1") -> str:
    """Serves `app` over HTTP on a running Ray, and returns when it answers.

    Returns:
        Its URL, such as http://127.0.0.1:8000.

    Raises:
        UserError: the port is in use, or others than this machine could ask without a key.
        BrewError: a replica did not start; its own first error, as the class it had there.
    """
    if not app.keyed and not _is_loopback(host):
        raise UserError(
            f"without API keys the service listens on this machine only, not on {host}: create a key and name its file "
            f"in edge.keys_path, or serve on 127.0.0.1."
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

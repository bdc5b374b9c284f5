"""The Ray Serve application: one replica that holds one engine and answers HTTP with the registry's version.

Owns: which version is loaded, the replica's life from start to shutdown, and how a failed start reads. Does not own:
routes (`api`), answers (`service`), scores (`scoring`).
"""

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from ray import serve
from ray.serve import Application
from ray.serve.config import HTTPOptions

from brew_platform.errors import BrewError, UserError, first_cause
from brew_platform.registry import Registry
from brew_platform.storage import open_store
from brew_serve.admission import AdmissionConfig
from brew_serve.api import create_api
from brew_serve.context import MemberContext
from brew_serve.edge import EdgeConfig
from brew_serve.engine_config import EngineConfig
from brew_serve.keys import KeyFile
from brew_serve.nearline_api import nearline_router
from brew_serve.nearline_config import NearlineConfig
from brew_serve.nearline_consumer import build_consumer
from brew_serve.nearline_service import NearlineService
from brew_serve.ports import require_free_port
from brew_serve.service import RankService
from brew_serve.version import load_version

__all__ = ["App", "AppConfig", "build_app", "serve_http"]

APP_NAME = "brew360"


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """What is served."""

    registry_url: str  # store of the model registry
    model: str = "brew360"  # its name there
    alias: str = "production"  # followed at start
    context_path: str | None = None  # file of `MemberContext`; None: requests must carry members and candidates
    cache_folder: str  # fetched versions; one that is there is not fetched again
    engine: EngineConfig = field(default_factory=EngineConfig)
    edge: EdgeConfig = field(default_factory=EdgeConfig)
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    nearline: NearlineConfig | None = None  # also take events, and rank when something happens; None: online only
    # Held by a replica at a time. More than it can work on, so that it is admission, which counts tokens, that refuses:
    # what waits in Serve's own queue is not seen by it, and its time there does not count towards a deadline.
    max_ongoing_requests: int = 1_000
    cpus: float = 1.0  # Ray CPUs that the replica reserves


@dataclass(frozen=True, kw_only=True)
class App:
    """A Serve application, and whether those who ask it must have a key."""

    application: Application
    keyed: bool
    consumer: Application | None = None  # of nearline work


def build_app(config: AppConfig) -> App:
    """The application, ready for `serve_http`.

    The version is fetched and checked here too, so that what is wrong with it is said at once and by name.

    Raises:
        RegistryError, StorageError: the alias leads to no version, or its files are missing or damaged.
        UserError: the version, the member context or the key file cannot be used.
    """
    _, folder = _fetch(config)
    load_version(folder, config.engine)
    if config.context_path is not None:
        MemberContext(Path(config.context_path)).close()
    if config.edge.keys_path is not None:
        KeyFile(Path(config.edge.keys_path))
    # serve.ingress evaluates the builder in the replica, where the instance is known.
    routers = () if config.nearline is None else (nearline_router(_nearline),)
    ranker = serve.ingress(lambda: create_api(_service, config.edge, routers=routers))(_Ranker)
    deployment = serve.deployment(
        ranker,
        name="Ranker",
        num_replicas=1,
        max_ongoing_requests=config.max_ongoing_requests,
        max_constructor_retry_count=1,  # a version that does not load will not load on the second try either
        ray_actor_options={"num_cpus": config.cpus},
        health_check_period_s=5.0,  # how long a dead engine may go unnoticed
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=10.0,
    )
    consumer = None
    if config.nearline is not None:
        consumer = build_consumer(config.nearline, lambda: _fetch(config), config.engine)
    return App(application=deployment.bind(config), keyed=config.edge.keys_path is not None, consumer=consumer)


def serve_http(app: App, port: int, host: str = "127.0.0.1") -> str:
    """Serves `app` over HTTP on a running Ray, and returns when it answers.

    Returns:
        Its URL, such as http://127.0.0.1:8000.

    Raises:
        UserError: the port is in use, or others than this machine could ask without a key.
        BrewError: the replica did not start; its own first error, as the class it had there.
    """
    if not app.keyed and not _is_loopback(host):
        raise UserError(
            f"without API keys the service listens on this machine only, not on {host}: create a key and name its file "
            f"in edge.keys_path, or serve on 127.0.0.1."
        )
    require_free_port(port, host)
    serve.start(http_options=HTTPOptions(host=host, port=port), proxy_location="HeadOnly")
    try:
        serve.run(app.application, name=APP_NAME, route_prefix="/", blocking=False)
        if app.consumer is not None:
            serve.run(app.consumer, name=f"{APP_NAME}-nearline", route_prefix=None, blocking=False)
    except RuntimeError as error:
        application = serve.status().applications.get(APP_NAME)
        told = [one.message for one in application.deployments.values()] if application else []
        serve.shutdown()
        raise _first_cause("\n".join([*told, str(error)])) from error
    return f"http://{host}:{port}"


class _Ranker:
    """The replica. Its engine's process ends with it: at once on shutdown, and within a moment when it is killed."""

    def __init__(self, config: AppConfig) -> None:
        from brew_serve.vllm_engine import VllmEngine

        number, folder = _fetch(config)
        version = load_version(folder, config.engine)
        context = None if config.context_path is None else MemberContext(Path(config.context_path))
        engine = VllmEngine(folder, version.engine)
        self.service = RankService(number, version, engine, context, name=config.model, admission=config.admission)
        self.nearline = (
            None
            if config.nearline is None
            else NearlineService.open(config.nearline, lambda: self.service.version.suite)
        )

    def check_health(self) -> None:
        """Called by Serve, which replaces a replica that raises."""
        self.service.engine.check()

    def __del__(self) -> None:
        nearline = getattr(self, "nearline", None)
        if nearline is not None:
            nearline.close()
        if hasattr(self, "service"):
            self.service.close()


def _service() -> RankService:
    service: RankService = serve.get_replica_context().servable_object.service
    return service


def _nearline() -> NearlineService:
    service: NearlineService = serve.get_replica_context().servable_object.nearline
    return service


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _fetch(config: AppConfig) -> tuple[int, Path]:
    registry = Registry(open_store(config.registry_url), config.model)
    number = registry.resolve(config.alias)
    return number, registry.fetch(number, Path(config.cache_folder))


def _first_cause(told: str) -> BrewError:
    """The error of our own, or else the last exception, in the traceback that Serve passes on as text."""
    cause = first_cause(RuntimeError(told))
    if isinstance(cause, BrewError):
        return cause
    last = re.findall(r"^\w[\w.]*(?:Error|Exception): .+$", told, re.MULTILINE)
    return BrewError(f"the service did not start: {(last or told.strip().splitlines())[-1]}")

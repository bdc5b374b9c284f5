"""Runs a job gateway: the HTTP server, and the loop of the controller in a thread."""

import ipaddress
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from brew_cluster.gateway.app import create_app
from brew_cluster.gateway.config import GatewayConfig
from brew_cluster.gateway.controller import JobController
from brew_cluster.gateway.executor import RayJobExecutor
from brew_cluster.gateway.job_gateway import JobGateway, TeamTable
from brew_cluster.gateway.ledger import Ledger
from brew_cluster.gateway.service import JobService
from brew_cluster.gateway.signed import MetadataSigner, read_signing_key
from brew_platform.errors import BrewError, UserError
from brew_platform.processes import stop_signals
from brew_platform.storage.base import open_store

__all__ = ["run_gateway"]

_LOG = logging.getLogger("brew_cluster")
_ARCHIVE_SECONDS = 3_600.0  # between two looks for old events
_STOP_SECONDS = 5.0  # that the loop has to finish its step


def run_gateway(
    config: GatewayConfig, *, on_ready: Callable[[str], None], on_problem: Callable[[str], None] = lambda problem: None
) -> None:
    """Run a gateway until the process gets SIGINT or SIGTERM. Jobs continue without it.

    Args:
        config: The settings.
        on_ready: Called with the address when the gateway is about to listen.
        on_problem: Called with the reason when the gateway cannot follow the cluster, and with "" when it can again.

    Raises:
        UserError: A key file or the signing key is missing or invalid, the clock is wrong, or the port is taken.
        StorageError: The store of the ledger cannot be used.
        RegistryError: The ledger is damaged.
    """
    import uvicorn

    from brew_serve.http.config import MiddlewareConfig
    from brew_serve.http.guarded_protocol import guarded_protocol

    signer = MetadataSigner(read_signing_key(config.signing_key_path))
    teams = TeamTable(Path(config.keys_path))
    ledger = Ledger(open_store(config.store), config.name, kept_days=config.kept_days)
    executor = RayJobExecutor(config.ray_address, signer, stop_seconds=config.stop_seconds)
    gateway = JobGateway(ledger=ledger, executor=executor, config=config, teams=teams)
    controller = JobController(gateway, on_problem)
    service = JobService(gateway, problem=lambda: controller.problem)
    api = create_app(service, controller)
    ledger.check_clock()
    ledger.read(lambda state, now: None)  # a ledger that cannot be read is reported now
    is_local = config.host == "localhost" or _is_loopback(config.host)
    if config.tls_certificate is None and not is_local:
        _LOG.warning(
            "keys travel unencrypted to %s: set tls_certificate and tls_key, or use a proxy with TLS", config.host
        )
    options = uvicorn.Config(
        api,
        host=config.host,
        port=config.port,
        http=guarded_protocol(MiddlewareConfig()),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        ssl_certfile=config.tls_certificate,
        ssl_keyfile=config.tls_key,
    )
    try:
        options.load()
    except OSError as error:  # ssl.SSLError is one
        raise UserError(
            f"tls_certificate {config.tls_certificate} and tls_key {config.tls_key} cannot be used ({error}); give two "
            f"PEM files that belong together."
        ) from error
    try:
        listener = options.bind_socket()
    except SystemExit as error:
        raise UserError(
            f"the gateway cannot listen on {config.host}:{config.port}; set port to a free one, and host to an address "
            f"of this machine."
        ) from error
    stop = threading.Event()
    loop = threading.Thread(target=controller.run, args=(stop,), name="job controller", daemon=True)
    loop.start()
    threading.Thread(target=_archive, args=(ledger, stop), name="ledger archive", daemon=True).start()
    on_ready(f"{'http' if config.tls_certificate is None else 'https'}://{config.host}:{config.port}")
    server = uvicorn.Server(options)

    def end() -> None:
        server.should_exit = True

    try:
        with stop_signals(end):  # uvicorn sends itself the signal again after its end
            server.run(sockets=[listener])
    finally:
        stop.set()
        loop.join(_STOP_SECONDS)


def _archive(ledger: Ledger, stop: threading.Event) -> None:
    """Archive old events every hour until `stop` is set."""
    while not stop.wait(_ARCHIVE_SECONDS):
        try:
            if count := ledger.archive():
                _LOG.info("archived %d segments of the ledger", count)
        except BrewError as error:
            _LOG.error("old events of the ledger are not archived: %s", error)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

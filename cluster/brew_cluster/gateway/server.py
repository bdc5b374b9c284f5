"""Runs a job gateway: the HTTP server, and the loop of the controller in a thread."""

import ipaddress
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from brew_cluster.gateway.app import create_app
from brew_cluster.gateway.config import GatewayConfig
from brew_cluster.gateway.controller import JobController, TeamTable
from brew_cluster.gateway.executor import RayJobExecutor
from brew_cluster.gateway.ledger import Ledger
from brew_cluster.gateway.service import JobService
from brew_cluster.gateway.signed import MetadataSigner, read_signing_key
from brew_platform.config import load_config
from brew_platform.errors import UserError
from brew_platform.storage.base import open_store

__all__ = ["load_gateway", "run_gateway"]

_LOG = logging.getLogger("brew_cluster")
_STOP_SECONDS = 5.0  # that the loop has to finish its step


def load_gateway(arguments: Sequence[str]) -> GatewayConfig:
    """Load the settings of a gateway.

    Args:
        arguments: At most one path of a YAML file, first; then `key=value`.

    Raises:
        ConfigError: The file does not exist, or a setting is unknown or invalid.
    """
    files = [argument for argument in arguments[:1] if "=" not in argument]
    return load_config(GatewayConfig, *map(Path, files), overrides=arguments[len(files) :])


def run_gateway(config: GatewayConfig, *, on_ready: Callable[[str], None]) -> None:
    """Run a gateway until the process is interrupted. Jobs continue without it.

    Args:
        config: The settings.
        on_ready: Called with the address when the gateway is about to listen.

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
    ledger = Ledger(open_store(config.store), config.name)
    executor = RayJobExecutor(config.ray_address, signer, stop_seconds=config.stop_seconds)
    controller = JobController(ledger, executor, config, teams)
    service = JobService(ledger, executor, config, teams, problem=lambda: controller.problem)
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
    on_ready(f"{'http' if config.tls_certificate is None else 'https'}://{config.host}:{config.port}")
    try:
        uvicorn.Server(options).run(sockets=[listener])
    finally:
        stop.set()
        loop.join(_STOP_SECONDS)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

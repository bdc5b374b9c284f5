"""The settings of the job gateway."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from brew_platform.config import load_config
from brew_platform.errors import ConfigError
from brew_platform.settings import Name, NonNegativeInt, PositiveInt, Range, Seconds, Settings

__all__ = ["GatewayConfig", "load_gateway"]

Port = Annotated[int, Range(ge=1, le=65_535)]


@dataclass(kw_only=True)
class GatewayConfig(Settings):
    """The settings of the job gateway. All gateways of a cluster need the same ones, but for host, port and files.

    Raises:
        ConfigError: A value is out of range, or `folder` is not an absolute path.
    """

    name: Name = "brew360"  # of the ledger, and first part of the ids of Ray jobs
    store: str = "runs/jobs"  # object store of the ledger: a folder, or s3://bucket/prefix
    keys_path: str = "keys.yaml"  # key file of the teams, from `brew360 keys create`
    # File with the key that signs the metadata of Ray jobs; null: the variable BREW360_JOBS_SIGNING_KEY.
    signing_key_path: str | None = None
    ray_address: str = "http://127.0.0.1:8265"  # Ray's dashboard on the head node, which accepts Ray Jobs
    # File with the gateway's log, JSON lines; null: standard output, for a container.
    log_path: str | None = "runs/jobs/gateway.log"
    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0: all
    port: Port = 8360  # port to listen on
    tls_certificate: str | None = None  # PEM file; null: plain HTTP, for loopback or behind a proxy with TLS
    tls_key: str | None = None  # PEM file of the certificate's key
    gpus: NonNegativeInt = 0  # GPUs of the cluster that jobs can use together
    cpus: PositiveInt = 8  # CPU cores of the cluster that jobs can use together
    # Folder of the cluster, on a file system that all nodes share: a job runs in <folder>/<team>, where its relative
    # paths begin. Empty: Ray's own working folder.
    folder: str = ""
    poll_seconds: Annotated[float, Range(ge=0.05, le=60)] = 2.0  # between two looks at the cluster and the queue
    # A job runs at least so long before a team of the same priority can take its place.
    quantum_seconds: Seconds = 3_600.0
    stop_seconds: Annotated[int, Range(ge=1, le=3_600)] = 180  # that a stopped job has to write a checkpoint and end
    # How long jobs that have ended are shown, and events are objects of their own; older events are compressed.
    kept_days: Annotated[int, Range(ge=1, le=3_650)] = 90
    max_queued_jobs: Annotated[int, Range(ge=1, le=100_000)] = 1_000  # of a team
    max_submissions_per_minute: Annotated[int, Range(ge=1, le=100_000)] = 120  # of a team, refused ones included

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folder and (not PurePosixPath(self.folder).is_absolute() or ".." in PurePosixPath(self.folder).parts):
            raise ConfigError(f"folder is {self.folder!r}; give an absolute path that all nodes of the cluster share.")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError("tls_certificate and tls_key belong together; set both, or none.")


def load_gateway(arguments: Sequence[str]) -> GatewayConfig:
    """Load the settings of a gateway.

    Args:
        arguments: At most one path of a YAML file, first; then `key=value`.

    Raises:
        ConfigError: The file does not exist, or a setting is unknown or invalid.
    """
    files = [argument for argument in arguments[:1] if "=" not in argument]
    return load_config(GatewayConfig, *map(Path, files), overrides=arguments[len(files) :])

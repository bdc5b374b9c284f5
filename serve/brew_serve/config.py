"""What is served, and on how many replicas: the settings of the online service."""

from dataclasses import dataclass, field
from pathlib import Path

from brew_platform.errors import ConfigError
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store
from brew_serve.engines.config import EngineConfig
from brew_serve.http.middleware import EdgeConfig
from brew_serve.nearline.config import NearlineConfig
from brew_serve.ranking.admission import AdmissionConfig

__all__ = ["AppConfig"]


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """What is served."""

    registry_url: str  # store of the model registry
    model: str = "brew360"  # its name there
    alias: str = "production"  # followed; or the number of a version, which is then served for good
    context_path: str | None = None  # file of `MemberContext`; None: requests must carry members and candidates
    cache_folder: str  # fetched versions; one that is there is not fetched again
    engine: EngineConfig = field(default_factory=EngineConfig)
    edge: EdgeConfig = field(default_factory=EdgeConfig)
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)  # of each replica
    nearline: NearlineConfig | None = None  # also take events, and rank when something happens; None: online only
    follow_seconds: float = 5.0  # between two looks at the registry's log
    start_seconds: float = 1_800.0  # in which a new version must be up; hundreds of GB are fetched and loaded in them
    request_seconds: float = 55.0  # for an answer without a deadline; our client gives up at 60, and should hear why
    drain_seconds: float = 60.0  # that a replica which is taken away may still work on what it has accepted
    # Held by a replica at a time. More than it can work on, so that it is admission, which counts tokens, that refuses:
    # what waits in Serve's own queue is not seen by it.
    max_ongoing_requests: int = 1_000
    gateways: int = 1  # replicas that speak HTTP; one of them forwards more than a ranker on two cores can answer
    min_replicas: int = 1  # of each version that is up
    max_replicas: int = 1  # more than min_replicas: as many as the outstanding tokens ask for
    target_tokens: int = 100_000  # outstanding in each replica; what is above for upscale_seconds starts more replicas
    upscale_seconds: float = 10.0  # that load must ask for more replicas before they are started
    downscale_seconds: float = 300.0  # that load must ask for fewer; a start costs more than some idle minutes
    cpus: float = 1.0  # Ray CPUs that each replica reserves
    gpus: float = 0.0  # Ray GPUs that each replica reserves

    def __post_init__(self) -> None:
        seconds = ("follow_seconds", "start_seconds", "request_seconds")
        for name in (*seconds, "max_ongoing_requests", "gateways", "min_replicas"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give a number greater than 0.")
        for name in ("drain_seconds", "upscale_seconds", "downscale_seconds", "cpus", "gpus"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 0 or more.")
        if self.max_replicas < self.min_replicas:
            raise ConfigError(
                f"max_replicas is {self.max_replicas}, which is less than min_replicas ({self.min_replicas}); raise it."
            )
        if not 0 < self.target_tokens <= self.admission.max_outstanding_tokens:
            raise ConfigError(
                f"target_tokens is {self.target_tokens}, but a replica takes {self.admission.max_outstanding_tokens} "
                f"(admission.max_outstanding_tokens) and refuses the rest, so that more replicas would never be "
                f"started; give a number from 1 to that."
            )
        if self.nearline is not None and self.gateways > 1:
            raise ConfigError(
                f"gateways is {self.gateways}, but the nearline outbox is a file of one of them; give 1, or serve "
                f"nearline from a service of its own."
            )

    def open_registry(self) -> Registry:
        """The registry of the model.

        Raises:
            UserError: `registry_url` or `model` names none.
        """
        return Registry(open_store(self.registry_url), self.model)

    def fetch(self, number: int) -> Path:
        """The folder of a version on this node.

        Raises:
            RegistryError, StorageError: there is no such version, or its files are missing or damaged.
        """
        return self.open_registry().fetch(number, Path(self.cache_folder))

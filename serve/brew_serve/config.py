"""Settings of the online service: which model it serves, and on how many replicas."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from brew_data.privacy.pseudonyms import PseudonymConfig
from brew_data.prompts.history import HistoryPolicy
from brew_platform.errors import ConfigError
from brew_platform.registry.registry import Registry
from brew_platform.registry.version_cache import VersionCache
from brew_platform.settings import (
    Name,
    NonNegativeFloat,
    NonNegativeSeconds,
    PositiveInt,
    Seconds,
    Settings,
)
from brew_platform.storage.base import open_store
from brew_serve.engines.config import EngineConfig
from brew_serve.http.config import MiddlewareConfig
from brew_serve.nearline.config import NearlineConfig
from brew_serve.ranking.admission import AdmissionConfig
from brew_serve.ranking.answer_log_config import AnswerLogConfig

__all__ = ["AppConfig"]


@dataclass(frozen=True, kw_only=True)
class AppConfig(Settings):
    """Settings of the online service."""

    RENAMED: ClassVar[dict[str, str]] = {"edge": "middleware"}  # `load_config` names the new one in its error

    registry_url: str  # store of the model registry
    model: Name = "brew360"  # its name there
    alias: Name = "production"  # the service follows it; or the number of a version, which never changes
    # The member context: a file of `brew360 context build`, or redis://host:6379/0. None: requests must carry members
    # and candidates.
    context_path: str | None = None
    # The key of the pseudonyms, for a member context of a data set with pseudonyms; requests name members by their ids.
    pseudonyms: PseudonymConfig | None = None
    cache_folder: str  # fetched versions; a version that it contains is not fetched again
    # Limit of the versions in cache_folder: those that were not fetched for the longest time and that no process of the
    # host uses are deleted.
    cache_bytes: PositiveInt = 2**40
    engine: EngineConfig = field(default_factory=EngineConfig)
    middleware: MiddlewareConfig = field(default_factory=MiddlewareConfig)
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)  # of each replica
    # Replaces the history policies of the model, by task; the model was trained on prompts of its own policies.
    history: dict[str, HistoryPolicy] = field(default_factory=dict)
    nearline: NearlineConfig | None = None  # accept events, and rank again after them; None: online only
    answer_log: AnswerLogConfig | None = None  # log rankings, to evaluate live traffic; None: no log
    follow_seconds: Seconds = 5.0  # between two reads of the registry's log
    start_seconds: Seconds = 1_800.0  # time limit for a new version to start: it may fetch and load hundreds of GB
    request_seconds: Seconds = 55.0  # deadline of a request that names none; less than our client's 60 s
    drain_seconds: NonNegativeSeconds = 60.0  # for a removed replica to finish the requests it has accepted
    # Requests in a replica at a time. Admission, which counts tokens, should refuse requests before this limit does,
    # because it does not see requests in Serve's own queue.
    max_ongoing_requests: PositiveInt = 1_000
    gateways: PositiveInt = 1  # replicas that speak HTTP; one forwards more than a replica on two cores can answer
    min_replicas: PositiveInt = 1  # of each version that is up
    max_replicas: PositiveInt = 1  # more than min_replicas: the number follows the outstanding tokens
    # Outstanding per replica; a higher load starts more replicas after upscale_seconds. What exceeds 1.25 times this
    # waits in the gateways, in fair order over the teams.
    target_tokens: PositiveInt = 30_000
    upscale_seconds: NonNegativeSeconds = 10.0  # for which the load must exceed the target before replicas start
    downscale_seconds: NonNegativeSeconds = 300.0  # for which the load must be low before replicas stop
    cpus: NonNegativeFloat = 1.0  # Ray CPUs that each replica reserves
    gpus: NonNegativeFloat = 0.0  # Ray GPUs that each replica reserves
    # Ray labels of the nodes that run gateways and replicas, such as brew360/role: online; empty: any node.
    node_labels: dict[str, str] = field(default_factory=dict)
    log_key: str | None = None  # key of the hashes that logs contain in place of ids; null: a new one for each start

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alias.isdecimal() and self.alias[0] == "0":
            raise ConfigError(f"alias is {self.alias!r}; give the number of a version without leading zeros.")
        if self.max_replicas < self.min_replicas:
            raise ConfigError(
                f"max_replicas is {self.max_replicas}, which is less than min_replicas ({self.min_replicas}); raise it."
            )
        if self.target_tokens > self.admission.max_outstanding_tokens:
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
        """Open the registry of the model.

        Raises:
            UserError: `registry_url` or `model` names no registry.
        """
        return Registry(open_store(self.registry_url), self.model)

    def fetch(self, number: int) -> Path:
        """Return the folder of a version on this node, which stays until this process ends.

        Raises:
            RegistryError, StorageError: There is no such version, or its files are missing or damaged.
        """
        return VersionCache(Path(self.cache_folder), limit_bytes=self.cache_bytes).fetch(self.open_registry(), number)

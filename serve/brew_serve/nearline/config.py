"""Settings of the nearline service, and the choice of its backends.

Without `redis_url`, all data are files of one machine: SQLite, and Celery's filesystem broker. With it, member context,
rankings and queue are in that Redis; the outbox remains a file of the ingress, so that it does not depend on Redis.
"""

from dataclasses import dataclass, field
from pathlib import Path

from brew_platform.errors import ConfigError
from brew_platform.settings import NonNegativeFloat, NonNegativeInt, PositiveInt, Seconds, Settings
from brew_serve.context.base import Context, MemberContext
from brew_serve.context.redis import RedisContext
from brew_serve.nearline.dispatcher import DispatchConfig
from brew_serve.nearline.outbox import Outbox
from brew_serve.nearline.redis_store import RedisNearlineStore
from brew_serve.nearline.store import NearlineStore, SqliteNearlineStore
from brew_serve.stores.redis_server import is_redis_url

__all__ = ["NearlineConfig"]


@dataclass(frozen=True, kw_only=True)
class NearlineConfig(Settings):
    """Settings of the nearline service."""

    folder: str  # on a local disk: the outbox, and without Redis also rankings and queue
    context_path: str | None = None  # SQLite file of `MemberContext`; required without Redis
    redis_url: str | None = None  # such as redis://:password@host:6379/0
    prefix: str = "brew360:"  # prefix of our keys in Redis
    redis_replicas: NonNegativeInt = (
        0  # replicas that must have a job's effects before it is done; all that may take over
    )
    queue_name: str = "brew360-nearline"  # key of the queue in Redis, without the prefix; Serve's autoscaling reads it
    most_open: PositiveInt = 100_000  # maximum of open jobs; further events are refused with 503 (100 MB of outbox)
    threads: PositiveInt = 4  # members that a consumer handles concurrently; its engine batches their prompts
    min_consumers: PositiveInt = 1  # replicas
    max_consumers: PositiveInt = 1  # replicas; if more than min_consumers, their number follows the number of open jobs
    jobs_per_consumer: PositiveInt = 64  # open jobs per replica; more start another replica
    most_attempts: PositiveInt = 5  # attempts at a job before it is dead
    job_seconds: Seconds = 3_600.0  # longest work on a job; its consumer counts as hung then, and the job is sent again
    ranking_seconds: Seconds = 30 * 86_400.0  # lifetime of a slate and its ranking, from the request
    cpus: NonNegativeFloat = 1.0  # Ray CPUs that a consumer reserves
    gpus: NonNegativeFloat = 0.0  # Ray GPUs that a consumer reserves
    # Ray labels of the nodes that run consumers, such as brew360/role: nearline; empty: any node.
    node_labels: dict[str, str] = field(default_factory=dict)
    dispatch: DispatchConfig = field(default_factory=DispatchConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.context_path is None) == (self.redis_url is None):
            count = "neither" if self.redis_url is None else "both"
            raise ConfigError(f"{count} of context_path and redis_url given; give exactly one of them.")
        if self.redis_url is not None and not is_redis_url(self.redis_url):
            raise ConfigError("redis_url must begin with redis://, rediss:// or unix://.")
        if self.redis_replicas and self.redis_url is None:
            raise ConfigError(f"redis_replicas is {self.redis_replicas}, but redis_url is not set; remove one of them.")
        if self.max_consumers < self.min_consumers:
            raise ConfigError(
                f"max_consumers is {self.max_consumers}, which is less than min_consumers ({self.min_consumers}); "
                f"raise it."
            )

    @property
    def outbox_path(self) -> Path:
        """File of the outbox."""
        return Path(self.folder) / "outbox.sqlite"

    @property
    def queue_folder(self) -> Path:
        """Folder of the filesystem broker, which is used without Redis."""
        return Path(self.folder) / "queue"

    def open_outbox(self) -> Outbox:
        """Open the outbox, which is created if missing.

        Raises:
            UserError: Its file is not a SQLite database.
        """
        return Outbox(self.outbox_path, most_open=self.most_open)

    def open_context(self) -> Context:
        """Open the member context for writing.

        Raises:
            UserError: Its file is missing, or is not a member context.
        """
        if self.redis_url is not None:
            return RedisContext(self.redis_url, self.prefix)
        assert self.context_path is not None
        return MemberContext(Path(self.context_path), writable=True)

    def open_store(self) -> NearlineStore:
        """Open the store of slates, rankings and receipts.

        Raises:
            UserError: Its file is not a SQLite database.
        """
        if self.redis_url is None:
            return SqliteNearlineStore(Path(self.folder) / "nearline.sqlite", ranking_seconds=self.ranking_seconds)
        return RedisNearlineStore(
            self.redis_url, self.prefix, replicas=self.redis_replicas, ranking_seconds=self.ranking_seconds
        )

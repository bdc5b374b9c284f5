"""Settings of the HTTP middleware, and of the quotas of teams."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from brew_platform.errors import ConfigError, UserError
from brew_platform.settings import PositiveInt, Range, Seconds, Settings
from brew_serve.stores.redis_server import is_redis_url, without_password

__all__ = ["MiddlewareConfig", "QuotaConfig"]


@dataclass(frozen=True, kw_only=True)
class QuotaConfig(Settings):
    """Where the requests and tokens of teams are counted.

    With `redis_url` all gateways count together. Without it each gateway counts on its own, so that N gateways grant
    a team N times its limits.
    """

    redis_url: str | None = None  # such as redis://host:6379/3; a password is in one of the next two
    password_env: str | None = None  # name of the environment variable that contains the password of the Redis
    password_file: str | None = None  # path of a file that contains it; white space around it is ignored
    prefix: str = "brew360:"  # prefix of our keys in Redis
    timeout_seconds: Annotated[float, Range(gt=0, le=1)] = 0.05  # a request waits no longer for Redis
    max_connections: PositiveInt = 16  # of each gateway

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.redis_url is None:
            return
        if not is_redis_url(self.redis_url):
            raise ConfigError("redis_url must begin with redis://, rediss:// or unix://.")
        if urlsplit(self.redis_url).password:
            raise ConfigError(
                f"redis_url contains a password, which would be shown wherever settings are; give "
                f"{without_password(self.redis_url)}, and the password in password_file or password_env."
            )
        if self.password_env is not None and self.password_file is not None:
            raise ConfigError("both password_env and password_file are set; set one of them.")

    def absolute(self) -> "QuotaConfig":
        """Return the settings with the absolute path of the file, for processes with another working directory."""
        if self.password_file is None:
            return self
        return replace(self, password_file=str(Path(self.password_file).absolute()))

    def password(self) -> str | None:
        """Read the password of the Redis; None if it has none.

        Raises:
            UserError: The variable is not set, or the file cannot be read.
        """
        if self.password_env is not None:
            if not (password := os.environ.get(self.password_env, "").strip()):
                raise UserError(
                    f"the environment variable {self.password_env} (middleware.quotas.password_env) is not set; put "
                    f"the password of the Redis into it."
                )
            return password
        if self.password_file is None:
            return None
        try:
            return Path(self.password_file).read_text().strip()
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.password_file} (middleware.quotas.password_file) cannot be read: {error}. Write the password "
                f"of the Redis into it."
            ) from error


@dataclass(frozen=True, kw_only=True)
class MiddlewareConfig(Settings):
    """Which callers are accepted, and the limits of their connections, bodies and queues."""

    keys_path: str | None = None  # the key file; None: no keys, and the service listens on this machine only
    quotas: QuotaConfig = field(default_factory=QuotaConfig)  # where requests and tokens of teams are counted
    header_seconds: Seconds = 10.0  # time limit for a connection to send the headers of a request
    max_header_bytes: PositiveInt = 65_536  # of a request
    max_body_bytes: PositiveInt = 8_000_000  # 1,000 candidates of 8 KB
    body_seconds: Seconds = 20.0  # time limit for a body to arrive
    max_reading_requests: PositiveInt = 256  # bodies of a team that arrive at a time; one more ends the longest
    max_held_bytes: PositiveInt = 500_000_000  # bodies of a team's requests that are not answered yet
    max_waiting_requests: PositiveInt = 256  # requests of a team that wait for their turn
    max_connections: PositiveInt = 8_000  # of each proxy; one more ends the oldest that has no request

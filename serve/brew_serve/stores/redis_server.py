"""Connects to Redis with short timeouts and translates its errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from brew_platform.errors import UserError
from brew_serve.stores.sqlite_file import Unavailable

__all__ = ["connect", "redis_errors"]

_SECONDS = 2.0  # to connect, and for an answer; the largest that we read is one member's history


def connect(url: str) -> Any:
    """A client of the Redis at `url`, such as redis://:password@host:6379/0; it connects when it is first used.

    Returns:
        redis.Redis with bytes as answers; safe to use from several threads.

    Raises:
        UserError: the URL is malformed.
    """
    import redis
    from redis.backoff import ConstantBackoff
    from redis.retry import Retry

    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=_SECONDS,
            socket_connect_timeout=_SECONDS,
            # One more try: the first one after a restart of the server meets a connection that has ended.
            retry=Retry(ConstantBackoff(0.05), 1),
        )
    except ValueError as error:
        raise UserError(f"{url!r} is no URL of a Redis ({error}); give one such as redis://host:6379/0.") from error


@contextmanager
def redis_errors() -> Iterator[None]:
    """Raises Unavailable for what the server did not do."""
    import redis

    try:
        yield
    except redis.exceptions.RedisError as error:
        raise Unavailable(
            f"Redis did not answer ({type(error).__name__}: {error}). Ask again; where this goes on, see that it runs, "
            f"has memory left, and may be written to."
        ) from error

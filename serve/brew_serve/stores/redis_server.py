"""Connects to Redis with short timeouts and translates its errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from brew_platform.errors import UserError
from brew_serve.stores.sqlite_file import Unavailable

__all__ = ["connect", "redis_errors"]

_SECONDS = 2.0  # time limit to connect and to answer; the largest value that we read is one member's history


def connect(url: str) -> Any:
    """Create a Redis client, which connects when it is first used.

    Args:
        url: Address of the server, such as redis://:password@host:6379/0.

    Returns:
        redis.Redis that returns bytes; thread-safe.

    Raises:
        UserError: The URL is malformed.
    """
    import redis
    from redis.backoff import ConstantBackoff
    from redis.retry import Retry

    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=_SECONDS,
            socket_connect_timeout=_SECONDS,
            # One retry: after a restart of the server, the first command fails on a closed connection.
            retry=Retry(ConstantBackoff(0.05), 1),
        )
    except ValueError as error:
        raise UserError(f"{url!r} is not a URL of Redis ({error}). Pass one such as redis://host:6379/0.") from error


@contextmanager
def redis_errors() -> Iterator[None]:
    """Raise Unavailable in place of the errors of the Redis client inside the block."""
    import redis

    try:
        yield
    except redis.exceptions.RedisError as error:
        raise Unavailable(
            f"Redis did not answer ({type(error).__name__}: {error}). Try again. If this persists, check that it runs, "
            f"has free memory, and allows writes."
        ) from error

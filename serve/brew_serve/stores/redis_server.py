"""Connects to Redis with short timeouts and translates its errors."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from brew_platform.errors import UserError
from brew_serve.stores.sqlite_file import Unavailable

__all__ = ["RedisErrors", "connect", "connect_async", "is_redis_url", "without_password"]

_SCHEMES = ("redis://", "rediss://", "unix://")

_PAUSE_SECONDS = 1.0  # between two calls to a server that hangs
_SECONDS = 2.0  # time limit to connect and to answer; the largest value that we read is one member's history


def is_redis_url(location: str) -> bool:
    """Return whether a setting names a Redis; otherwise it is the path of a file."""
    return location.startswith(_SCHEMES)


def without_password(url: str) -> str:
    """Return the address of a server without user and password, for messages and files."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


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
            # One retry on a closed connection, which the first command after a restart of the server meets. A server
            # that hangs is not tried again: the caller waits for one time limit only.
            retry=Retry(ConstantBackoff(0.05), 1, supported_errors=(redis.exceptions.ConnectionError,)),
        )
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{without_password(url)!r} is not a URL of Redis ({error}). Pass one such as redis://host:6379/0."
        ) from error


def connect_async(url: str, *, password: str | None, seconds: float, max_connections: int) -> Any:
    """Create a Redis client for one event loop, which connects when it is first used.

    Calls have no time limit of their own: run them in `asyncio.timeout`. With `socket_timeout`, redis-py sends through
    `asyncio.wait_for`, which loses a cancellation that comes at the same moment (Python 3.11), and needs a task.

    Args:
        url: Address of the server, such as redis://host:6379/0.
        password: Of the server; None if it has none.
        seconds: Time limit to get a connection and to connect.
        max_connections: Largest number of connections.

    Returns:
        redis.asyncio.Redis that returns bytes.

    Raises:
        UserError: The URL is malformed.
    """
    import redis.asyncio
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    try:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            **({} if password is None else {"password": password}),
            timeout=seconds,
            max_connections=max_connections,
            socket_timeout=None,
            socket_connect_timeout=seconds,
            # As in `connect`: the first command after a restart of the server meets a closed connection.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,)),
        )
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{without_password(url)!r} is not a URL of Redis ({error}). Pass one such as redis://host:6379/0."
        ) from error
    return redis.asyncio.Redis.from_pool(pool)


class RedisErrors:
    """Raises Unavailable in place of the errors of one Redis client, and at once while its server hangs.

    A hung server accepts connections, but does not answer. Without this, each call would occupy a thread until its time
    limit. After such a call, the next ones fail at once, and one call at a time tries again.

    Args:
        clock: Returns seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._hung = ""  # the message while the server hangs
        self._retry_at = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Run the block, which calls the client.

        Raises:
            Unavailable: The client raised an error, or the server hangs.
        """
        import redis

        with self._lock:
            now = self._clock()
            if self._hung and now < self._retry_at:
                raise Unavailable(self._hung)
            self._retry_at = now + _SECONDS + _PAUSE_SECONDS  # if it hangs, this call tries, and the others fail
        try:
            yield
        except redis.exceptions.RedisError as error:
            message = (
                f"Redis did not answer ({type(error).__name__}: {error}). Try again. If this persists, check that it "
                f"runs, has free memory, and allows writes."
            )
            self._hung = message if isinstance(error, redis.exceptions.TimeoutError) else ""
            self._retry_at = self._clock() + _PAUSE_SECONDS
            raise Unavailable(message) from error
        except BaseException:
            self._hung = ""
            raise
        else:
            self._hung = ""

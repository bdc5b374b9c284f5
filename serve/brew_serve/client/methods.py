"""The methods that both clients share: one per route, from the functions of `calls`."""

import re
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, overload

import httpx

from brew_platform.errors import UserError
from brew_serve.client import calls
from brew_serve.client.calls import Call, ResponseT
from brew_serve.client.retries import is_number

if TYPE_CHECKING:
    from brew_serve.client.async_client import AsyncRankClient
    from brew_serve.client.sync_client import RankClient

__all__ = ["RouteMethods", "http_options"]

P = ParamSpec("P")


class _Method(Generic[P, ResponseT]):
    """A method of both clients: builds a call from its arguments and sends it with the client's `send`."""

    def __init__(self, build_call: Callable[P, Call[ResponseT]]) -> None:
        self._build_call = build_call
        self.__doc__ = build_call.__doc__

    @overload
    def __get__(self, client: "RankClient", owner: Any) -> Callable[P, ResponseT]: ...
    @overload
    def __get__(self, client: "AsyncRankClient", owner: Any) -> Callable[P, Awaitable[ResponseT]]: ...
    @overload
    def __get__(self, client: None, owner: Any) -> "_Method[P, ResponseT]": ...

    def __get__(self, client: "RankClient | AsyncRankClient | None", owner: Any) -> Any:
        if client is None:
            return self

        @wraps(self._build_call)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.send(self._build_call(*args, **kwargs))

        return method


class RouteMethods:
    """The methods of both clients. The functions of `calls` document their arguments and responses."""

    rank = _Method(calls.rank)
    health = _Method(calls.health)
    ready = _Method(calls.ready)
    models = _Method(calls.models)
    status = _Method(calls.status)
    send_events = _Method(calls.send_events)
    rank_nearline = _Method(calls.rank_nearline)
    nearline_ranking = _Method(calls.nearline_ranking)


_MAX_TIMEOUT = 1e6  # seconds; sockets overflow far above
_API_KEY = re.compile(r"[\x21-\x7e]+")  # what a header can carry, without spaces


def http_options(base_url: str, api_key: str | None, timeout_seconds: float) -> dict[str, Any]:
    """Return the arguments of `httpx.Client` and `httpx.AsyncClient`.

    Raises:
        UserError: `base_url` is not a URL of HTTP, `api_key` cannot be a key, or `timeout_seconds` is not a positive
            finite number.
    """
    _check_url(base_url)
    if api_key is not None and not (isinstance(api_key, str) and _API_KEY.fullmatch(api_key)):
        raise UserError(
            "api_key cannot be a key: it is empty, or contains a space, a line break or a character that is not ASCII. "
            "Pass the key as `brew360 keys create` printed it; strip() removes the line break of a file."
        )
    if not is_number(timeout_seconds) or not 0 < timeout_seconds <= _MAX_TIMEOUT:  # false for NaN
        raise UserError(
            f"timeout_seconds is {timeout_seconds!r}; pass a number of seconds greater than 0, up to {_MAX_TIMEOUT:g}."
        )
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    return {"base_url": base_url, "headers": headers, "timeout": float(timeout_seconds), "trust_env": False}


def _check_url(base_url: str) -> None:
    example = "Pass one such as http://127.0.0.1:8000."
    try:
        url = httpx.URL(base_url)
        host, port = url.host, url.port
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise UserError(f"{base_url!r} is not a URL ({error}). {example}") from error
    if url.scheme not in ("http", "https") or not host:
        raise UserError(f"{base_url!r} is not a URL with http:// or https:// and a host. {example}")
    if port is not None and not 0 < port < 2**16:
        raise UserError(f"{base_url!r} has the port {port}; ports are 1 to 65535. {example}")
    if url.query or url.fragment or url.userinfo:
        raise UserError(f"base_url has a query, a fragment or a password, which requests do not send. {example}")

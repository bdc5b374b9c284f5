"""The methods that both clients share: one per route, from the functions of `calls`."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, overload

import httpx

from brew_platform.errors import UserError
from brew_serve.client import calls
from brew_serve.client.calls import Call, ResponseT

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


def http_options(base_url: str, api_key: str | None, timeout_seconds: float) -> dict[str, Any]:
    """Return the arguments of `httpx.Client` and `httpx.AsyncClient`.

    Raises:
        UserError: `base_url` is not a URL.
    """
    try:
        httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise UserError(f"{base_url!r} is not a URL ({error}). Pass one such as http://127.0.0.1:8000.") from error
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    return {"base_url": base_url, "headers": headers, "timeout": timeout_seconds, "trust_env": False}

"""The client for asyncio."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx

from brew_serve.client.calls import Call, ResponseT
from brew_serve.client.errors import translate_connection_errors
from brew_serve.client.json_body import encode_json
from brew_serve.client.methods import RouteMethods, http_options
from brew_serve.client.retries import Exchange, Retries

__all__ = ["AsyncRankClient"]


class AsyncRankClient(RouteMethods):
    """`RankClient` for asyncio; `async with AsyncRankClient(url) as client: await client.rank(...)`.

    The arguments are those of `RankClient`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 60.0,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._http = httpx.AsyncClient(**http_options(base_url, api_key, timeout_seconds), transport=transport)
        self._retries, self._sleep = retries or Retries(), sleep

    async def send(self, call: Call[ResponseT]) -> ResponseT:
        """Send a call, retry it if that can help, and return its response.

        Raises:
            UserError: The body has a value that JSON cannot represent; nothing was sent.
            BrewError: The call failed; `client/__init__.py` lists the classes.
        """
        content = None if call.body is None else encode_json(call.body)
        headers = {} if content is None else {"content-type": "application/json"}
        base_url = str(self._http.base_url)
        exchange = Exchange(call, self._retries, base_url)
        while exchange.answer is None:
            await self._sleep(exchange.wait_seconds)
            with translate_connection_errors(base_url):
                response = await self._http.request(call.method, call.path, content=content, headers=headers)
            exchange.receive(response)
        return exchange.answer

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncRankClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

"""The blocking client."""

import time
from collections.abc import Callable

import httpx

from brew_serve.client.calls import Call, ResponseT
from brew_serve.client.errors import translate_connection_errors
from brew_serve.client.json_body import encode_json
from brew_serve.client.methods import RouteMethods, http_options
from brew_serve.client.retries import Exchange, Retries

__all__ = ["RankClient"]


class RankClient(RouteMethods):
    """A blocking client of a ranking service. Close it, or use it as a context manager. Threads can share it.

    Args:
        base_url: Address of the service, such as http://127.0.0.1:8000.
        api_key: API key of the caller's team; None if the service requires none.
        timeout_seconds: Timeout of each attempt.
        retries: Limits of the retries of 429 and 503.
        transport: Transport of httpx; for tests.
        sleep: Waits for a number of seconds; for tests.

    Raises:
        UserError: `base_url` is not a URL of HTTP, `api_key` cannot be a key, or `timeout_seconds` is not a positive
            finite number.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 60.0,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._http = httpx.Client(**http_options(base_url, api_key, timeout_seconds), transport=transport)
        self._retries, self._sleep = retries or Retries(), sleep

    def send(self, call: Call[ResponseT]) -> ResponseT:
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
            self._sleep(exchange.wait_seconds)
            with translate_connection_errors(base_url):
                response = self._http.request(call.method, call.path, content=content, headers=headers)
            exchange.receive(response)
        return exchange.answer

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> "RankClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

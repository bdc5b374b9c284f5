"""An HTTP client of an application in this process."""

from typing import Any

import httpx

__all__ = ["client_of_app"]


def client_of_app(api: Any) -> httpx.AsyncClient:
    """Return a client that gets status 500 where the application fails, as over a network."""
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")

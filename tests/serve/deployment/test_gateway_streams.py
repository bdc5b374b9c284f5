"""Streams between a replica and a gateway: the response first, then its events; closing, and replicas that end."""

import time
import warnings
from typing import Any
from unittest.mock import Mock

import pytest

from brew_platform.identity.keys import Team
from brew_serve.config import AppConfig
from brew_serve.deployment.forwarding import ForwardedRequest
from brew_serve.errors import Lost
from brew_serve.http.request_context import Trace
from brew_serve.http.route import EVENT_STREAM, BackendResponse

with warnings.catch_warnings():  # of Ray's own, when it is imported
    warnings.simplefilter("ignore")
    from ray.exceptions import RayError

    from brew_serve.deployment.gateway import FleetBackend

HEAD = BackendResponse(status=200, headers={"content-type": EVENT_STREAM}, body=b"", tokens=7)
REQUEST = ForwardedRequest(
    path="/v1/completions",
    streams=True,
    content_type="application/json",
    body=b"{}",
    arrived=time.time(),
    trace=Trace.of("", ""),
    team=Team(name="feed"),
)


class Pending:
    """What a deployment handle returns for a call of a generator: items, of which an exception is raised."""

    def __init__(self, *items: Any) -> None:
        self.items, self.cancelled = list(items), False

    def __aiter__(self) -> "Pending":
        return self

    async def __anext__(self) -> Any:
        if not self.items:
            raise StopAsyncIteration
        item = self.items.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self) -> None:
        self.cancelled = True


async def open_stream(pending: Pending) -> BackendResponse:
    backend = FleetBackend(Mock(), AppConfig(registry_url="store", cache_folder="versions"))
    handle = Mock()
    handle.options.return_value.stream.remote.return_value = pending
    backend._handles[1] = handle
    response = await backend._send(1, REQUEST, "key")
    handle.options.assert_called_once_with(stream=True)
    return response


async def test_the_response_comes_first_and_then_its_events() -> None:
    pending = Pending(HEAD, b"data: 1\n\n", b"data: [DONE]\n\n")
    response = await open_stream(pending)
    assert (response.status, response.tokens) == (200, 7)
    assert response.events is not None
    assert [event async for event in response.events] == [b"data: 1\n\n", b"data: [DONE]\n\n"]
    assert not pending.cancelled


async def test_an_error_response_has_no_events() -> None:
    pending = Pending(BackendResponse(status=400, body=b"{}"))
    response = await open_stream(pending)
    assert (response.status, response.events) == (400, None)
    assert not pending.cancelled


async def test_a_stream_that_is_closed_is_cancelled_at_the_replica() -> None:
    pending = Pending(HEAD, b"data: 1\n\n", b"data: 2\n\n")
    response = await open_stream(pending)
    assert response.events is not None
    assert await anext(response.events) == b"data: 1\n\n"
    await response.events.aclose()
    assert pending.cancelled


async def test_a_replica_that_ends_is_lost_before_and_after_the_first_event() -> None:
    with pytest.raises(Lost):
        await open_stream(Pending(RayError("the actor died")))
    response = await open_stream(Pending(HEAD, b"data: 1\n\n", RayError("the actor died")))
    assert response.events is not None
    with pytest.raises(Lost):
        [event async for event in response.events]

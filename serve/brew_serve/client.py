"""The typed client of a ranking service, blocking (`RankClient`) and for asyncio (`AsyncRankClient`).

    Call           a request: a route, its body, the type of its answer
    _rank, ...     one function per route, which builds the Call
    exchange       one call with its retries and errors; it neither sends nor sleeps
    the clients    send and sleep for `exchange`, and have one method per route

All calls are idempotent: a ranking changes nothing, events carry an `event_id`, nearline requests a `request_id`. So
429 and 503 are retried after the time in Retry-After.

Errors carry the service's message: Unauthorized 401, Forbidden 403, Expired 408, BodyTooLarge 413, QuotaExceeded 429,
Late 504, UserError for other 4xx, BrewError for the rest and for no answer. A 503 is Overloaded, Lost or Unavailable,
according to the `code` of the answer.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar, overload
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from brew_platform.errors import BrewError, UserError
from brew_serve.errors import (
    BodyTooLarge,
    Expired,
    Forbidden,
    Late,
    Lost,
    Overloaded,
    QuotaExceeded,
    Refusal,
    Unauthorized,
)
from brew_serve.schemas.nearline import EventsAccepted, NearlineRanking, RankAccepted
from brew_serve.schemas.openai import ModelList
from brew_serve.schemas.rank import RankResponse
from brew_serve.schemas.status import FleetStatus
from brew_serve.stores.sqlite_file import Unavailable

__all__ = ["AsyncRankClient", "Call", "Health", "RankClient", "Retries", "exchange"]

P = ParamSpec("P")
T = TypeVar("T", bound=BaseModel)

_BY_CODE: dict[str, type[Refusal]] = {kind.code: kind for kind in (Lost, Unavailable)}
_BY_STATUS: dict[int, type[Refusal]] = {
    kind.status: kind for kind in (Unauthorized, Forbidden, Expired, BodyTooLarge, QuotaExceeded, Overloaded, Late)
}
_DEFAULT_WAIT_SECONDS = 1.0  # before a retry of a 429 or 503 without Retry-After; doubled each time


class Health(BaseModel):
    """The service is well."""

    model_config = ConfigDict(extra="ignore")
    status: str
    version: int  # of the model, that answers


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T]):
    """One question to a service.

    Args:
        answer: the type of its answer.
        most_wait: seconds after which the answer is of no use, so that no retry may wait longer; None where it always
            is.
    """

    method: str
    path: str
    answer: type[T]
    body: Any = None
    most_wait: float | None = None


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How long a client insists when the service has no room (503) or the team's quota is used up (429)."""

    most: int = 2  # tries after the first one; 0 for none
    most_seconds: float = 30.0  # a service that asks for a longer wait than this is not asked again


# --- One function for each route ---


def _rank(
    *,
    task: str,
    candidates: Sequence[str | Mapping[str, Any]],
    member: Mapping[str, Any] | None = None,
    member_id: str | None = None,
    instruction: str = "",
    top_k: int | None = None,
    deadline_ms: int | None = None,
) -> Call[RankResponse]:
    """Ranks candidates for one member.

    Args:
        task: its name in the served version.
        candidates: ids that the service knows, or {"id", "fields"}.
        member: {"profile", "history"}; or give `member_id`.
        member_id: a member whom the service knows.
        instruction: what the member wants, in their own words.
        top_k: answer with the best this many only.
        deadline_ms: after these, the answer holds what is scored, and names the rest as unscored.
    """
    body: dict[str, Any] = {"task": task, "candidates": list(candidates), "instruction": instruction}
    optional = {"member": member, "member_id": member_id, "top_k": top_k, "deadline_ms": deadline_ms}
    body |= {name: value for name, value in optional.items() if value is not None}
    most_wait = None if deadline_ms is None else deadline_ms / 1000
    return Call(method="POST", path="/v1/rank", answer=RankResponse, body=body, most_wait=most_wait)


def _health() -> Call[Health]:
    """Whether the service lives; an error where it should be started again."""
    return Call(method="GET", path="/health", answer=Health)


def _ready() -> Call[Health]:
    """Whether requests can be answered now."""
    return Call(method="GET", path="/ready", answer=Health)


def _models() -> Call[ModelList]:
    """The names that clients of OpenAI's protocol may ask for."""
    return Call(method="GET", path="/v1/models", answer=ModelList)


def _status() -> Call[FleetStatus]:
    """Which versions serve, in which role, on how many replicas."""
    return Call(method="GET", path="/v1/status", answer=FleetStatus)


def _send_events(events: Sequence[Mapping[str, Any]]) -> Call[EventsAccepted]:
    """Tells what members did. Once this returns no event is lost; one that is sent again changes nothing.

    Args:
        events: {"event_id", "member_id", "entity_id", "surface", "action", "timestamp"}, and "entity" where the service
            may not know it; 1 to 1,000.
    """
    return Call(method="POST", path="/v1/events", answer=EventsAccepted, body={"events": list(events)})


def _rank_nearline(
    *,
    task: str,
    member_id: str,
    candidates: Sequence[str | Mapping[str, Any]],
    instruction: str = "",
    top_k: int | None = None,
    request_id: str | None = None,
) -> Call[RankAccepted]:
    """Asks for a ranking that is computed soon, and again after each of the member's events; read it with
    `nearline_ranking`.

    Args:
        request_id: the caller's, so that asking again changes nothing; made up where it is not given.
    """
    body: dict[str, Any] = {"task": task, "member_id": member_id, "candidates": list(candidates)}
    body |= {"instruction": instruction, "request_id": request_id or uuid.uuid4().hex}
    body |= {} if top_k is None else {"top_k": top_k}
    return Call(method="POST", path="/v1/nearline/rank", answer=RankAccepted, body=body)


def _nearline_ranking(task: str, member_id: str) -> Call[NearlineRanking]:
    """The latest nearline ranking of a member, and how far it is behind."""
    path = f"/v1/nearline/rankings/{quote(task, safe='')}/{quote(member_id, safe='')}"
    return Call(method="GET", path=path, answer=NearlineRanking)


# --- One call, from first try to answer ---


def exchange(call: Call[T], retries: Retries, base_url: str) -> Generator[float, httpx.Response | httpx.HTTPError, T]:
    """Decides what becomes of a call. Yields the seconds to wait before each try; wants its answer or failure sent in.

    Raises:
        BrewError: as the head of this file says.
    """
    wait, tries = 0.0, 0
    while True:
        came = yield wait
        if isinstance(came, httpx.TimeoutException):
            raise BrewError(
                f"no answer from {base_url} in time ({type(came).__name__}). Give the client more seconds, or ask with "
                f"fewer candidates."
            ) from came
        if isinstance(came, httpx.HTTPError):
            raise BrewError(
                f"no answer from {base_url} ({type(came).__name__}: {came}). Check that the service is up and that "
                f"this is its address."
            ) from came
        if came.is_success:
            try:
                return call.answer.model_validate_json(came.content)
            except ValidationError as error:
                raise BrewError(
                    f"{base_url}{call.path} answered what is no {call.answer.__name__}: {came.text[:200]!r}. Check "
                    f"that a ranking service listens there, of the same release as this client."
                ) from error
        after = _retry_after(came)
        wait = _DEFAULT_WAIT_SECONDS * 2**tries if after is None else after
        most = retries.most_seconds if call.most_wait is None else min(call.most_wait, retries.most_seconds)
        if came.status_code not in (429, 503) or tries == retries.most or wait > most:
            raise _error(came, after)
        tries += 1


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds; None where the header is missing or names a date, which our service never does."""
    try:
        return max(0.0, float(answer.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _error(answer: httpx.Response, after: float | None) -> BrewError:
    code = ""
    try:
        told = answer.json()
        if isinstance(told["error"], dict):  # OpenAI's form, of GET /v1/models
            told = {**told["error"], "error": told["error"]["message"]}
        sentence, code = str(told["error"]), str(told.get("code"))
    except (ValueError, KeyError, TypeError):
        sentence = f"the service answered {answer.status_code}: {answer.text[:200]}"
    if after is not None and answer.status_code in (429, 503, 504):
        sentence = f"{sentence} (Retry-After: {after:g} s)"
    if (refusal := _BY_CODE.get(code) or _BY_STATUS.get(answer.status_code)) is not None:
        return refusal(sentence, after)
    return (UserError if answer.is_client_error else BrewError)(sentence)


# --- The clients ---


class _Route(Generic[P, T]):
    """A method of both clients: sends what `make` makes of its arguments."""

    def __init__(self, make: Callable[P, Call[T]]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, client: "RankClient", owner: Any) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: "AsyncRankClient", owner: Any) -> Callable[P, Awaitable[T]]: ...
    @overload
    def __get__(self, client: None, owner: Any) -> "_Route[P, T]": ...

    def __get__(self, client: "RankClient | AsyncRankClient | None", owner: Any) -> Any:
        if client is None:
            return self

        @wraps(self._make)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.send(self._make(*args, **kwargs))

        method.__name__ = self._make.__name__.removeprefix("_")
        return method


class _Routes:
    """The methods of both clients; what each takes and gives is said by the function of its name."""

    rank = _Route(_rank)
    health = _Route(_health)
    ready = _Route(_ready)
    models = _Route(_models)
    status = _Route(_status)
    send_events = _Route(_send_events)
    rank_nearline = _Route(_rank_nearline)
    nearline_ranking = _Route(_nearline_ranking)


def _options(base_url: str, api_key: str | None, timeout_seconds: float) -> dict[str, Any]:
    try:
        httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise UserError(f"{base_url!r} is no URL ({error}); give one such as http://127.0.0.1:8000.") from error
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    return {"base_url": base_url, "headers": headers, "timeout": timeout_seconds, "trust_env": False}


class RankClient(_Routes):
    """Asks a ranking service; close it, or use it as a context manager. Several threads may share one.

    Args:
        base_url: such as http://127.0.0.1:8000.
        api_key: of the caller's team; None where the service asks for none.
        timeout_seconds: for each try.
        retries: at 429 and 503.
        transport: of httpx; for tests.
        sleep: waits for so many seconds; for tests.
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
        self._http = httpx.Client(**_options(base_url, api_key, timeout_seconds), transport=transport)
        self._retries, self._sleep = retries or Retries(), sleep

    def send(self, call: Call[T]) -> T:
        """Asks, and asks again where that may help.

        Raises:
            BrewError: as the head of this file says.
        """
        steps = exchange(call, self._retries, str(self._http.base_url))
        wait = next(steps)
        while True:
            self._sleep(wait)
            came: httpx.Response | httpx.HTTPError
            try:
                came = self._http.request(call.method, call.path, json=call.body)
            except httpx.HTTPError as error:
                came = error
            try:
                wait = steps.send(came)
            except StopIteration as done:
                answer: T = done.value
                return answer

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> "RankClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncRankClient(_Routes):
    """As `RankClient`, for asyncio; `async with AsyncRankClient(url) as client: await client.rank(...)`."""

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
        self._http = httpx.AsyncClient(**_options(base_url, api_key, timeout_seconds), transport=transport)
        self._retries, self._sleep = retries or Retries(), sleep

    async def send(self, call: Call[T]) -> T:
        """Asks, and asks again where that may help.

        Raises:
            BrewError: as the head of this file says.
        """
        steps = exchange(call, self._retries, str(self._http.base_url))
        wait = next(steps)
        while True:
            await self._sleep(wait)
            came: httpx.Response | httpx.HTTPError
            try:
                came = await self._http.request(call.method, call.path, json=call.body)
            except httpx.HTTPError as error:
                came = error
            try:
                wait = steps.send(came)
            except StopIteration as done:
                answer: T = done.value
                return answer

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncRankClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

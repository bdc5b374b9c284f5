"""Turns a failed response or a failed connection into an exception with the service's message."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

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
    Uncalibrated,
)
from brew_serve.stores.sqlite_file import Unavailable

__all__ = ["error_of", "retry_after_of", "translate_connection_errors"]

_BY_CODE: dict[str, type[Refusal]] = {kind.code: kind for kind in (Lost, Unavailable)}
_BY_STATUS: dict[int, type[Refusal]] = {
    kind.status: kind
    for kind in (
        Unauthorized,
        Forbidden,
        Expired,
        Uncalibrated,
        BodyTooLarge,
        QuotaExceeded,
        Overloaded,
        Late,
    )
}


def error_of(response: httpx.Response, retry_after: float | None) -> BrewError:
    """Return the exception for a response whose status is not 2xx.

    Args:
        response: The response, with a body in the service's or in OpenAI's error form.
        retry_after: Seconds that its Retry-After header names; None without one.
    """
    code = ""
    try:
        body = response.json()
        if isinstance(body["error"], dict):  # OpenAI's form, of GET /v1/models
            body = {**body["error"], "error": body["error"]["message"]}
        if not isinstance(body["error"], str):
            raise TypeError
        message, code = body["error"].encode("utf-8", "replace").decode(), str(body.get("code"))
    except (ValueError, KeyError, TypeError, RecursionError):
        message = f"the service answered {response.status_code}: {response.text[:200]}"
    if retry_after is not None and response.status_code in (429, 503, 504):
        message = f"{message} (Retry-After: {retry_after:g} s)"
    if (refusal := _BY_CODE.get(code) or _BY_STATUS.get(response.status_code)) is not None:
        return refusal(message, retry_after)
    return (UserError if response.is_client_error else BrewError)(message)


def retry_after_of(response: httpx.Response) -> float | None:
    """Return the seconds of the Retry-After header; None if it is missing or not a number of seconds."""
    try:
        seconds = float(response.headers["retry-after"])
    except (KeyError, ValueError):  # it can be a date, which the service never sends
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


@contextmanager
def translate_connection_errors(base_url: str) -> Iterator[None]:
    """Raise a BrewError that says what to do in place of an error of httpx.

    Args:
        base_url: Address of the service, for the message.
    """
    try:
        yield
    except httpx.TimeoutException as error:
        raise BrewError(
            f"no response from {base_url} in time ({type(error).__name__}). Give the client a longer timeout, or send "
            f"fewer candidates."
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BrewError(
            f"no response from {base_url} ({type(error).__name__}: {error}). Check that the service is up and that "
            f"this is its address."
        ) from error

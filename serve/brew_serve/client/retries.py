"""The retry policy of the client: one call from its first attempt to its response. It neither sends nor sleeps."""

import math
from dataclasses import dataclass
from typing import Generic

import httpx
from pydantic import ValidationError

from brew_platform.errors import BrewError, UserError
from brew_serve.client.calls import Call, ResponseT
from brew_serve.client.errors import error_of, retry_after_of

__all__ = ["Exchange", "Retries", "is_number"]

_DEFAULT_WAIT_SECONDS = 1.0  # before a retry of a 429 or 503 without Retry-After; doubled each time


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Limits of the retries, if the service has no capacity (503) or the team's quota is used up (429).

    Raises:
        UserError: A limit is negative, or not a finite number.
    """

    max_retries: int = 2  # attempts after the first one; 0 disables retries
    max_wait_seconds: float = 30.0  # a service that requires a longer wait than this is not called again

    def __post_init__(self) -> None:
        if type(self.max_retries) is not int or self.max_retries < 0:
            raise UserError(f"max_retries is {self.max_retries!r}; pass 0 or a larger whole number.")
        seconds = self.max_wait_seconds
        if not is_number(seconds) or not 0 <= seconds < math.inf:  # false for NaN
            raise UserError(f"max_wait_seconds is {seconds!r}; pass a finite number of seconds, 0 or more.")


def is_number(value: object) -> bool:
    """Return whether `value` is an integer or a float, and not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class Exchange(Generic[ResponseT]):
    """The attempts of one call.

    Until `answer` is set, a client waits `wait_seconds`, sends the call, and passes the response to `receive`.

    Args:
        call: The request.
        retries: Limits of the retries.
        base_url: Address of the service, for error messages.
    """

    def __init__(self, call: Call[ResponseT], retries: Retries, base_url: str) -> None:
        self._call, self._retries, self._base_url = call, retries, base_url
        self._retried = 0
        self.wait_seconds = 0.0
        self.answer: ResponseT | None = None

    def receive(self, response: httpx.Response) -> None:
        """Set `answer` from a successful response, or `wait_seconds` if the call is to be retried.

        Raises:
            BrewError: The call failed; `client/__init__.py` lists the classes.
        """
        call, retries = self._call, self._retries
        if response.is_success:
            try:
                self.answer = call.response_type.model_validate_json(response.content)
            except ValidationError as error:
                raise BrewError(
                    f"the response of {self._base_url}{call.path} is not a valid {call.response_type.__name__}: "
                    f"{response.text[:200]!r}. Check that a ranking service of the client's release listens there."
                ) from error
            return
        retry_after = retry_after_of(response)
        wait = _DEFAULT_WAIT_SECONDS * 2**self._retried if retry_after is None else retry_after
        limit = retries.max_wait_seconds
        if call.max_wait_seconds is not None:
            limit = min(call.max_wait_seconds, limit)
        if response.status_code not in (429, 503) or self._retried == retries.max_retries or wait > limit:
            raise error_of(response, retry_after)
        self._retried += 1
        self.wait_seconds = wait

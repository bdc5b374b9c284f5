"""Errors that end a request, each with its HTTP status and code. `http.error_responses` renders them.

Refusal
├── Unauthorized   401   no API key, or an unknown one
├── Forbidden      403   the API key lacks the scope of this route
├── Expired        408   the deadline passed before any work began
├── Uncalibrated   409   the version that answers has no calibration map of the task
├── BodyTooLarge   413   the body exceeds the size limit
├── QuotaExceeded  429   the team's request rate or token quota is used up; `retry_after` says for how long
├── BrokenVersion  500   the version computed NaN or another number that is not a probability
├── Overloaded     503   the service has no capacity now; `retry_after` says for how long
├── Lost           503   the replica that had the request ended, or no replica is up
├── Unavailable    503   a store cannot be used now (`stores.sqlite_file`)
└── Late           504   the replica that has the request did not answer in time
UnknownModel       404   the request names a model that this service does not serve
UnknownId          404   the member context has no such id (`context.base`)
"""

from typing import ClassVar, Literal

from brew_platform.errors import BrewError, UserError

__all__ = [
    "BodyTooLarge",
    "BrokenVersion",
    "Expired",
    "Forbidden",
    "Late",
    "Lost",
    "Overloaded",
    "QuotaExceeded",
    "Refusal",
    "Unauthorized",
    "Uncalibrated",
    "UnknownModel",
]


class Refusal(BrewError):
    """A request that the service does not answer.

    Args:
        sentence: What the caller should do.
        retry_after: Seconds after which the same request may succeed; None if waiting does not help.
    """

    status: ClassVar[int]
    code: ClassVar[str]  # stable; programs use it to distinguish refusals that share a status

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class Unauthorized(Refusal, UserError):
    """The request has no API key, or an unknown one."""

    status, code = 401, "unauthorized"


class Forbidden(Refusal, UserError):
    """The API key is valid, but does not have the scope that this route needs."""

    status, code = 403, "forbidden"


class Expired(Refusal, UserError):
    """The deadline of the request passed before any work began."""

    status, code = 408, "expired"


class Uncalibrated(Refusal, UserError):
    """The request asks for calibrated probabilities, but the version has no calibration map of the task."""

    status, code = 409, "uncalibrated"


class BodyTooLarge(Refusal, UserError):
    """The body exceeds the size limit."""

    status, code = 413, "body_too_large"


class QuotaExceeded(Refusal, UserError):
    """The team has used up its requests or its tokens.

    Args:
        limit: `rate` if it exceeds its request rate, `quota` if its tokens are used up.
    """

    status, code = 429, "quota_exceeded"

    def __init__(
        self, sentence: str, retry_after: float | None = None, *, limit: Literal["rate", "quota"] = "quota"
    ) -> None:
        super().__init__(sentence, retry_after)
        self.limit: Literal["rate", "quota"] = limit


class BrokenVersion(Refusal):
    """The model version computed NaN or another number that is not a probability."""

    status, code = 500, "failed"


class Overloaded(Refusal):
    """The service has no capacity for the request now."""

    status, code = 503, "overloaded"


class Lost(Refusal):
    """No replica answered: the one that had the request ended, or none is up."""

    status, code = 503, "lost"

    def __init__(self, sentence: str, retry_after: float = 5.0) -> None:  # other replicas can answer at once
        super().__init__(sentence, retry_after)


class Late(Refusal):
    """The replica that has the request did not answer in time: it hangs or is overloaded."""

    status, code = 504, "late"

    def __init__(self, sentence: str, retry_after: float = 5.0) -> None:
        super().__init__(sentence, retry_after)


class UnknownModel(UserError):
    """The request names a model that this service does not serve."""

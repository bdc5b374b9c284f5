"""Why the edge turns a request away, as errors that know their HTTP status.

    Refusal
    ├── Unauthorized   401   no key, or one that is not known
    ├── Forbidden      403   the key's team may not do this
    ├── Expired        408   the deadline passed before any work was begun
    ├── BodyTooLarge   413   more bytes than a request may have
    ├── QuotaExceeded  429   the team's rate or token quota is used up; `retry_after` says until when
    ├── Overloaded     503   the service has no room now; `retry_after` says until when
    ├── Lost           503   the replica that had the request is gone, or none is up; another one is being started
    ├── Unavailable    503   a store cannot be used now (`sqlite_file`)
    └── Late           504   the replica that has the request did not answer in time

Owns: these classes but the store's, their statuses and codes. Does not own: how they read as HTTP (`error_answers`), or
when they are raised (`edge`, `gate`, `gateway`, `forwarding`).
"""

from typing import ClassVar

from brew_platform.errors import BrewError, UserError

__all__ = [
    "BodyTooLarge",
    "Expired",
    "Forbidden",
    "Late",
    "Lost",
    "Overloaded",
    "QuotaExceeded",
    "Refusal",
    "Unauthorized",
]


class Refusal(BrewError):
    """A request that is not answered.

    Args:
        sentence: what to do.
        retry_after: seconds after which the same request may succeed; None where waiting does not help.
    """

    status: ClassVar[int]
    code: ClassVar[str]  # for programs, which must tell refusals of one status apart; never changed

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class Unauthorized(Refusal, UserError):
    """No key was given, or it is not known."""

    status, code = 401, "unauthorized"


class Forbidden(Refusal, UserError):
    """The key is known, but its team may not do this."""

    status, code = 403, "forbidden"


class Expired(Refusal, UserError):
    """The request's deadline had passed before any work was begun."""

    status, code = 408, "expired"


class BodyTooLarge(Refusal, UserError):
    """The body has more bytes than a request may have."""

    status, code = 413, "body_too_large"


class QuotaExceeded(Refusal, UserError):
    """The team has used up its requests or its tokens."""

    status, code = 429, "quota_exceeded"


class Overloaded(Refusal):
    """The service has more work than it can take."""

    status, code = 503, "overloaded"


class Lost(Refusal):
    """No replica answered: the one that had the request ended, or none is up."""

    status, code = 503, "lost"

    def __init__(self, sentence: str, retry_after: float = 5.0) -> None:  # other replicas answer at once
        super().__init__(sentence, retry_after)


class Late(Refusal):
    """The replica that has the request did not answer in time: it hangs, or has far too much to do."""

    status, code = 504, "late"

    def __init__(self, sentence: str, retry_after: float = 5.0) -> None:
        super().__init__(sentence, retry_after)

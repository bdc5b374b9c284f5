"""Why the edge turns a request away, as errors that know their HTTP status.

    Refusal
    ├── Unauthorized   401   no key, or one that is not known
    ├── Forbidden      403   the key's team may not do this
    ├── Expired        408   the deadline passed before any work was begun
    ├── BodyTooLarge   413   more bytes than a request may have
    ├── QuotaExceeded  429   the team's rate or token quota is used up; `retry_after` says until when
    ├── Overloaded     503   the service has no room now; `retry_after` says until when
    └── Lost           503   the replica that had the request is gone, or none is up; another one is being started

Owns: these classes. Does not own: how they read as HTTP (`error_answers`), or when they are raised (`edge`, `gate`,
`gateway`).
"""

from typing import ClassVar

from brew_platform.errors import BrewError, UserError

__all__ = ["BodyTooLarge", "Expired", "Forbidden", "Lost", "Overloaded", "QuotaExceeded", "Refusal", "Unauthorized"]


class Refusal(BrewError):
    """A request that is not answered.

    Args:
        sentence: what to do.
        retry_after: seconds after which the same request may succeed; None where waiting does not help.
    """

    status: ClassVar[int] = 503

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class Unauthorized(Refusal, UserError):
    """No key was given, or it is not known."""

    status = 401


class Forbidden(Refusal, UserError):
    """The key is known, but its team may not do this."""

    status = 403


class Expired(Refusal, UserError):
    """The request's deadline had passed before any work was begun."""

    status = 408


class BodyTooLarge(Refusal, UserError):
    """The body has more bytes than a request may have."""

    status = 413


class QuotaExceeded(Refusal, UserError):
    """The team has used up its requests or its tokens."""

    status = 429


class Overloaded(Refusal):
    """The service has more work than it can take."""

    status = 503


class Lost(Refusal):
    """No replica answered: the one that had the request ended, or none is up."""

    status = 503

    def __init__(self, sentence: str, retry_after: float = 5.0) -> None:  # other replicas answer at once
        super().__init__(sentence, retry_after)

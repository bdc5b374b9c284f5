"""Sends requests to an S3 store, repeats those that failed for a temporary reason, and explains the others."""

import os
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from boto3.session import Session
from botocore import exceptions
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader
from botocore.parsers import ResponseParserError
from botocore.session import get_session

from brew_platform.errors import StorageError

__all__ = ["Refused", "Retries", "S3Client"]

T = TypeVar("T")
CONNECTIONS = 32  # kept open; more threads than that wait for one
_TEMPORARY = {  # error codes of responses that succeed later; further ones are known by their status
    "BadDigest",
    "IncompleteBody",
    "InternalError",
    "RequestTimeout",
    "RequestTimeoutException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentSHA256Mismatch",
}
_CREDENTIALS = (
    "the store does not accept the credentials. Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, "
    "or the profile of AWS_PROFILE."
)
_PERMISSION = "permission denied. Allow these credentials to list, read and write below this prefix, or use others."
_CLOCK = "the clock of this machine differs from the clock of the store. Set the clock (for example with NTP)."
_REGION = "the bucket is in another region. Set AWS_REGION to the region of the bucket."
_FULL = "the store is full or its quota is used up. Free some space there, or raise the quota."
_REASONS = {
    "NoSuchBucket": "the bucket does not exist. Create it, or correct the address.",
    "NoSuchKey": "no such object. Check the key and the path.",
    "404": "no such object. Check the key and the path.",
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    "ExpiredToken": "the credentials have expired. Get new ones, for example with `aws sso login`.",
    "AccessDenied": _PERMISSION,
    "AllAccessDisabled": _PERMISSION,
    "403": _PERMISSION,
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "301": _REGION,
    "QuotaExceeded": _FULL,
    "InsufficientStorage": _FULL,
    "507": _FULL,
}


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How often a request is sent, and the pauses between: uniform random from 0 to a limit that doubles.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
    """

    attempts: int = 8
    first_seconds: float = 0.2  # limit of the first pause
    most_seconds: float = 20.0  # limit of every pause

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after `failures` failed attempts (at least 1)."""
        return random.uniform(0, min(self.most_seconds, self.first_seconds * 2 ** (failures - 1)))


class Refused(Exception):
    """The store answered with an error code that the caller handles."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class S3Client:
    """A boto3 client of S3 for one bucket. It can be used by several threads.

    Credentials come from the chain of boto3: environment, files, and the role of the instance. The endpoint is
    `AWS_ENDPOINT_URL`, the region `AWS_REGION` or `AWS_DEFAULT_REGION`. The SHA-256 of each body is signed, so that the
    store refuses a body that was damaged on the way.

    Args:
        bucket: The bucket.
        store: The address of the store, for messages.
        retries: How often a request is sent.

    Raises:
        StorageError: The settings of the environment are invalid.
    """

    def __init__(self, bucket: str, *, store: str, retries: Retries) -> None:
        self.bucket, self._store, self._retries = bucket, store, retries
        config = Config(
            retries={"total_max_attempts": 1, "mode": "standard"},  # `send` repeats requests
            max_pool_connections=CONNECTIONS,
            connect_timeout=10,
            read_timeout=60,
            s3={"payload_signing_enabled": True},
            # Other stores than AWS do not know the checksums of 2024 and refuse requests that have them.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            session = get_session()
            session.register_component("data_loader", _loader())
            region = os.environ.get("AWS_REGION")
            self.boto: Any = Session(botocore_session=session, region_name=region).client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise StorageError(
                f"cannot open {store}: {error}. Check the variables AWS_* of the environment and the files in ~/.aws."
            ) from error

    def send(self, action: str, key: str, request: Callable[[], T], *, handled: Collection[str] = ()) -> T:
        """Call `request` until it succeeds, fails for a permanent reason, or failed too often.

        Args:
            action: What the request does with the object, for messages: `read`, `write` ...
            key: The key of the object in the store, for messages.
            request: Sends the request and reads the response. It is called again from the start.
            handled: Error codes that the caller handles.

        Raises:
            Refused: The store answered with one of `handled`.
            StorageError: The request failed.
        """
        failures = 0
        while True:
            try:
                return request()
            except (BotoCoreError, ClientError, ResponseParserError) as error:
                code = _code(error)
                if code in handled:
                    raise Refused(code) from error
                failures += 1
                if not _is_temporary(error) or failures >= self._retries.attempts:
                    raise StorageError(f"cannot {action} {key!r} in {self._store}: {self._reason(error)}") from error
            time.sleep(self._retries.pause(failures))

    def _reason(self, error: Exception) -> str:
        code = _code(error)
        endpoint = self.boto.meta.endpoint_url
        if code in _REASONS:
            return _REASONS[code]
        if isinstance(error, ClientError):
            message = error.response.get("Error", {}).get("Message", "")
            return (
                f"{endpoint} answered {_status(error)} {code} {message}".rstrip(" .")
                + ". Try again later, or ask the operator of the store."
            )
        if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
            return (
                "no credentials were found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or use a "
                "machine whose role may use the bucket."
            )
        if isinstance(error, exceptions.SSLError):
            return f"the certificate of {endpoint} is not trusted ({error}). Set AWS_CA_BUNDLE to the file of its CA."
        if isinstance(error, exceptions.ConnectionError | exceptions.HTTPClientError | exceptions.IncompleteReadError):
            return f"{endpoint} cannot be reached ({error}). Check AWS_ENDPOINT_URL, the network, and the store."
        return f"{error}. Check the address of the store and the variables AWS_* of the environment."


@cache
def _loader() -> Loader:
    """Return a reader of service descriptions that keeps them; reading them takes most of the time of a new client."""
    return Loader()


def _code(error: Exception) -> str:
    """Return the error code of a response; the empty string if there was no response."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_temporary(error: Exception) -> bool:
    if isinstance(error, ClientError):
        status = _status(error)
        # 409: another request for this key was in progress (AWS: ConditionalRequestConflict); it is not 412.
        return _code(error) in _TEMPORARY or status in (408, 409, 429) or (status >= 500 and status not in (501, 507))
    return isinstance(
        error,
        exceptions.ConnectionError | exceptions.HTTPClientError | exceptions.IncompleteReadError | ResponseParserError,
    )

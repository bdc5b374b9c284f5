"""Signs the metadata of Ray jobs, which Ray itself does not verify.

Anyone who reaches Ray's port can submit a job with any metadata. The gateway signs what it submits (HMAC-SHA256,
RFC 2104), and uses only answers about jobs with a valid signature.
"""

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from pathlib import Path

from brew_platform.errors import UserError

__all__ = ["KEY_VARIABLE", "MetadataSigner", "read_signing_key"]

KEY_VARIABLE = "BREW360_JOBS_SIGNING_KEY"
_PREFIX = "brew360."
_SIGNATURE = "brew360.signature"
_LEAST_BYTES = 32


class MetadataSigner:
    """Signs and verifies metadata.

    Args:
        key: At least 32 bytes, equal for all gateways of a cluster.

    Raises:
        UserError: The key is too short.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < _LEAST_BYTES:
            raise UserError(
                f"the signing key has {len(key)} bytes, and {_LEAST_BYTES} are needed; create one with "
                f"`openssl rand -hex 32`."
            )
        self._key = key

    def sign(self, fields: Mapping[str, str], entrypoint: str) -> dict[str, str]:
        """Return metadata of a Ray job with a signature over the fields and the entrypoint.

        Args:
            fields: Names without a prefix.
            entrypoint: The shell command of the Ray job.
        """
        metadata = {f"{_PREFIX}{name}": value for name, value in fields.items()}
        return metadata | {_SIGNATURE: self._signature(metadata, entrypoint)}

    def verify(self, metadata: Mapping[str, str], entrypoint: str) -> dict[str, str] | None:
        """Return the fields that were signed, or None if the signature is missing or not valid."""
        signed = {name: value for name, value in metadata.items() if name.startswith(_PREFIX) and name != _SIGNATURE}
        expected = self._signature(signed, entrypoint)
        if not hmac.compare_digest(expected.encode(), str(metadata.get(_SIGNATURE, "")).encode()):
            return None
        return {name.removeprefix(_PREFIX): value for name, value in signed.items()}

    def _signature(self, metadata: Mapping[str, str], entrypoint: str) -> str:
        text = json.dumps([dict(metadata), entrypoint], sort_keys=True, separators=(",", ":"))
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def read_signing_key(path: str | None) -> bytes:
    """Return the signing key in a file, or in the environment variable BREW360_JOBS_SIGNING_KEY.

    Args:
        path: Of the file; None: the variable.

    Raises:
        UserError: There is neither, or the file cannot be read.
    """
    if path is not None:
        try:
            return Path(path).read_bytes().strip()
        except OSError as error:
            raise UserError(
                f"the signing key {path} cannot be read ({error.strerror}); create it with `openssl rand -hex 32`."
            ) from error
    if key := os.environ.get(KEY_VARIABLE):
        return key.strip().encode()
    raise UserError(
        f"the gateway needs a key to sign the metadata of its Ray jobs: set {KEY_VARIABLE}, or signing_key_path to a "
        f"file, to the output of `openssl rand -hex 32`. All gateways of a cluster need the same key."
    )

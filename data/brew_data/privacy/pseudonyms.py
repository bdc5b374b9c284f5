"""Pseudonyms of member ids: keyed hashes, which nobody without the key can compute or reverse.

A data set with pseudonyms contains no member id. A service that reads such members needs the same key: it computes the
pseudonym of the id in a request. The key comes from the environment or a file, and is in no output, log or pickle.
"""

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from brew_platform.errors import ConfigError, UserError
from brew_platform.settings import Settings

__all__ = ["PseudonymConfig", "Pseudonyms"]

LEAST_BYTES = 16  # of a key
_CREATE = "Create a key of 32 random bytes with `openssl rand -hex 32`"


@dataclass(frozen=True, kw_only=True)
class PseudonymConfig(Settings):
    """Where the key of the pseudonyms is. Set exactly one of `env` and `file`.

    Raises:
        ConfigError: None or both are set.
    """

    env: str | None = None  # name of the environment variable that contains the key
    file: str | None = None  # path of a file that contains the key; white space around it is ignored

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.env is None) == (self.file is None):
            count = "neither" if self.env is None else "both"
            raise ConfigError(f"set exactly one of env and file for the key of the pseudonyms, not {count}.")

    def absolute(self) -> "PseudonymConfig":
        """Return the settings with the absolute path of the file, for processes with another working directory."""
        return self if self.file is None else PseudonymConfig(file=str(Path(self.file).absolute()))

    def open(self) -> "Pseudonyms":
        """Read the key.

        Raises:
            UserError: The variable is not set, the file cannot be read, or the key is too short. The message does not
                contain the key.
        """
        if self.env is not None:
            where, key = f"the environment variable {self.env}", os.environ.get(self.env, "").encode()
        else:
            assert self.file is not None
            where = f"the file {self.file}"
            try:
                key = Path(self.file).read_bytes()
            except OSError as error:
                raise UserError(
                    f"{where} with the key of the pseudonyms cannot be read ({error}). {_CREATE}, and keep it."
                ) from error
        key = key.strip()
        if not key:
            raise UserError(f"{where} contains no key of the pseudonyms. {_CREATE}, and set it.")
        if len(key) < LEAST_BYTES:
            raise UserError(f"{where} contains a key of {len(key)} bytes, but needs {LEAST_BYTES} or more. {_CREATE}.")
        return Pseudonyms(key)


class Pseudonyms:
    """Computes pseudonyms of member ids with one key.

    A pseudonym is the first 128 bits of HMAC-SHA256 (RFC 2104) of the id, in hexadecimal: 32 characters. The same id
    and key always have the same pseudonym. Two of a billion members share one with a probability below 2e-21.

    Args:
        key: The key; `PseudonymConfig.open` reads it.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        # Tells keys apart, and reveals no more than a pseudonym does.
        self.key_id = hmac.digest(key, b"key", hashlib.sha256).hex()[:16]

    def of(self, member_id: str) -> str:
        """Return the pseudonym of a member id."""
        return hmac.digest(self._key, b"member:" + member_id.encode(), hashlib.sha256).hex()[:32]

    def of_entity(self, entity_id: str) -> str:
        """Return the hash of an entity id in logs. Data sets keep the ids of entities; a log can be of members."""
        return hmac.digest(self._key, b"entity:" + entity_id.encode(), hashlib.sha256).hex()[:32]

    def __reduce__(self) -> NoReturn:
        raise TypeError("pseudonyms are not pickled, because the key must not leave the process; send the settings")

"""API keys per team, and the key file with their salted hashes.

A key is `b360_<id>_<secret>`, its secret 256 random bits; it is shown once and never stored. The file, YAML that only
its owner may read:

    teams:
      feed:
        requests_per_second: 50     # null or absent: no limit
        tokens_per_minute: 6000000
        weight: 1                   # share of the service when teams wait for each other; absent: 1
        admin: false                # true: may read /metrics
        keys:
          3f9a0c12: {salt: <hex>, sha256: <hex>}   # id: hash of salt and secret

A salted SHA-256 is sufficient at rest. A slow hash such as scrypt protects secrets that people choose, and would add
tens of milliseconds to each request.
"""

import fcntl
import hashlib
import hmac
import logging
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from brew_platform.config import parse_yaml
from brew_platform.errors import UserError
from brew_platform.files import replace_atomically

__all__ = ["KeyFile", "Team", "create_key", "list_keys", "revoke_key"]

_LOG = logging.getLogger(__name__)
_KEY = re.compile(r"b360_([0-9a-f]{8})_([\w-]{43})", re.ASCII)
_TEAM = re.compile(r"[\w.-]{1,64}", re.ASCII)
_NUMBERS = ("requests_per_second", "tokens_per_minute", "weight")
_LEAST_WEIGHT, _MOST_WEIGHT = 0.001, 1_000.0


@dataclass(frozen=True, kw_only=True)
class Team:
    """A team of callers, and its limits; None is unlimited."""

    name: str
    requests_per_second: float | None = None
    tokens_per_minute: int | None = None
    weight: float = 1.0  # a team of weight 2 gets twice the tokens of one of weight 1 while both wait
    admin: bool = False  # may use the operators' routes


@dataclass(frozen=True, kw_only=True)
class _Key:
    team: Team
    salt: bytes
    digest: bytes


class KeyFile:
    """The keys of a file, which is read again after each change: a revoked key stops working at once.

    Args:
        path: Of the key file.

    Raises:
        UserError: The file is missing or malformed. A later change that breaks it is logged, and the old keys stay.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = _read(path)
        self._stamp = _stamp(path)

    def team(self, key: str) -> Team | None:
        """Return the team of `key`, or None if the key is unknown. Runs in constant time for every wrong secret."""
        self._reload_if_changed()
        parts = _KEY.fullmatch(key)
        known = self._keys.get(parts[1]) if parts else None
        salt, digest = (known.salt, known.digest) if known else (b"", b"")
        same = hmac.compare_digest(_digest(salt, parts[2] if parts else ""), digest)
        return known.team if known and same else None

    def _reload_if_changed(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = _read(self._path)
        except UserError as error:
            _LOG.error("the key file cannot be used, and the keys stay unchanged: %s", error)


def create_key(
    path: Path,
    team: str,
    *,
    requests_per_second: float | None = None,
    tokens_per_minute: int | None = None,
    weight: float | None = None,
    admin: bool | None = None,
) -> str:
    """Add a key to the file; create the file and the team if they do not exist.

    Args:
        path: The key file.
        team: Name of the team: letters, digits, `_`, `.` and `-`.
        requests_per_second: Request limit of the team; None keeps the current limit.
        tokens_per_minute: Token limit of the team; None keeps the current limit.
        weight: Share of the service beside other teams that wait; None keeps the current weight.
        admin: Whether the team can use the operators' routes; None keeps the current value.

    Returns:
        The key. It is not stored, so a lost key must be replaced by a new one.

    Raises:
        UserError: The team's name or a limit is invalid, or the file cannot be read or written.
    """
    if not _TEAM.fullmatch(team):
        raise UserError(f"{team!r} cannot name a team; use 1 to 64 letters, digits, and any of _ . -")
    settings: dict[str, Any] = {
        "requests_per_second": requests_per_second,
        "tokens_per_minute": tokens_per_minute,
        "weight": weight,
        "admin": admin,
    }
    id_, secret, salt = secrets.token_hex(4), secrets.token_urlsafe(32), secrets.token_bytes(16)
    with _lock(path):
        data = _load(path) if path.exists() else {"teams": {}}
        entry = data["teams"].setdefault(team, {})
        entry.update({name: value for name, value in settings.items() if value is not None})
        entry.setdefault("keys", {})[id_] = {"salt": salt.hex(), "sha256": _digest(salt, secret).hex()}
        _teams(path, data)  # validates the content before it is written
        _write(path, yaml.safe_dump(data, sort_keys=False))
    return f"b360_{id_}_{secret}"


def list_keys(path: Path) -> list[tuple[str, Team]]:
    """Return the id of every key with its team, in the file's order.

    Raises:
        UserError: The file is missing or malformed.
    """
    return [(id_, key.team) for id_, key in _read(path).items()]


def revoke_key(path: Path, key_id: str) -> Team:
    """Remove a key from the file, and return its team; running services refuse the key at once.

    Args:
        path: The key file.
        key_id: The id in `b360_<id>_<secret>`.

    Raises:
        UserError: The file is missing or malformed, or contains no such key.
    """
    with _lock(path):
        data = _load(path)
        known = _teams(path, data)
        if key_id not in known:
            raise UserError(
                f"{path} contains no key {key_id!r}; it has {', '.join(known) or 'none'}. Pass one of these ids, the "
                f"part of a key between its underscores."
            )
        del data["teams"][known[key_id].team.name]["keys"][key_id]
        _write(path, yaml.safe_dump(data, sort_keys=False))
    return known[key_id].team


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock while the file is changed, so that concurrent changes do not overwrite each other."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose a writable folder.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _digest(salt: bytes, secret: str) -> bytes:
    return hashlib.sha256(salt + secret.encode()).digest()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _write(path: Path, text: str) -> None:
    try:
        replace_atomically(path, text, mode=0o600)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose a writable folder.") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        data = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist. Create a key, which creates the file.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a key file ({' '.join(str(error).split())}); fix it.") from error
    if not isinstance(data, dict) or not isinstance(data.get("teams"), dict):
        raise UserError(f"{path} is not a key file: it must be a mapping with `teams`. Create a new file.")
    return data


def _read(path: Path) -> dict[str, _Key]:
    return _teams(path, _load(path))


def _teams(path: Path, data: Mapping[str, Any]) -> dict[str, _Key]:
    keys: dict[str, _Key] = {}
    for name, entry in data["teams"].items():
        try:
            settings = {key: value for key, value in entry.items() if key != "keys" and value is not None}
            if unknown := settings.keys() - {*_NUMBERS, "admin"}:
                raise ValueError(f"unknown key {unknown.pop()!r}")
            if not (isinstance(name, str) and _TEAM.fullmatch(name)) or not isinstance(entry.get("admin", False), bool):
                raise ValueError("its name or `admin` is malformed")
            for number in settings.keys() & {*_NUMBERS}:
                value = settings[number]
                if isinstance(value, bool) or not 0 < value < math.inf:
                    raise ValueError(f"{number} must be a number greater than 0, or null")
            if not _LEAST_WEIGHT <= settings.get("weight", 1) <= _MOST_WEIGHT:
                raise ValueError(f"weight must be {_LEAST_WEIGHT:g} to {_MOST_WEIGHT:g}")
            team = Team(name=name, **settings)
            for id_, key in (entry.get("keys") or {}).items():
                digest = bytes.fromhex(key["sha256"])
                keys[str(id_)] = _Key(team=team, salt=bytes.fromhex(key["salt"]), digest=digest)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: team {name!r} is malformed ({error}); fix it, or create its key again."
            ) from error
    return keys

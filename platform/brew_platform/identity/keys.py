"""Teams with their scopes and quotas, their API keys, and the key file with the keys' salted hashes.

A key is `b360_<id>_<secret>`, its secret 256 random bits; it is shown once and never stored. The file, YAML that only
its owner may read; every setting of a team may be absent:

    teams:
      feed:
        scopes: [rank, events, nearline]   # see `SCOPES`; absent: these three
        requests_per_second: 50            # absent: no limit
        tokens_per_minute: 6000000         # absent: no limit
        weight: 1                          # share of the service, and of the job queue, beside teams that wait
        gpu_hours_per_month: 5000          # of the team's jobs; absent: no limit
        concurrent_gpus: 64                # of the team's running jobs; absent: no limit
        priority: 0                        # of the team's jobs, 0 to 9: jobs of a higher priority start first
        keys:
          3f9a0c12: {salt: <hex>, sha256: <hex>}   # id: hash of salt and secret
          77aa01fe: {salt: <hex>, sha256: <hex>, scopes: [rank]}   # this key has only these of the team's scopes

In files of earlier releases, `admin: true` stands for all scopes.

A salted SHA-256 is sufficient at rest. A slow hash such as scrypt protects secrets that people choose, and would add
tens of milliseconds to each request.
"""

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import yaml

from brew_platform.errors import ConfigError, UserError
from brew_platform.files import replace_atomically
from brew_platform.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Range, Settings
from brew_platform.yaml_files import parse_yaml

__all__ = [
    "DEFAULT_SCOPES",
    "SCOPES",
    "KeyFile",
    "Team",
    "create_key",
    "list_keys",
    "missing_scope",
    "parse_scopes",
    "revoke_key",
]

_LOG = logging.getLogger(__name__)
_KEY = re.compile(r"b360_([0-9a-f]{8})_([\w-]{43})", re.ASCII)
_TEAM = re.compile(r"[\w.-]{1,64}", re.ASCII)

SCOPES: Mapping[str, str] = MappingProxyType(
    {
        "rank": "rank, score and generate, and see which versions serve",
        "events": "send events of members",
        "nearline": "read rankings that were computed in advance",
        "jobs": "submit jobs to the cluster, and see and cancel those of the team",
        "admin": "read the metrics of the service, and see and cancel the jobs of all teams",
    }
)  # what a key with the scope may do
DEFAULT_SCOPES = frozenset({"rank", "events", "nearline"})  # of a team that names none


@dataclass(frozen=True, kw_only=True)
class Team(Settings):
    """A team of callers: what it may do, and how much. A limit of None is unlimited.

    Raises:
        ConfigError: A scope is unknown, or a number is out of its range.
    """

    name: str
    scopes: frozenset[str] = DEFAULT_SCOPES  # of the key that the caller sent; a key can have fewer than its team
    requests_per_second: PositiveFloat | None = None
    tokens_per_minute: PositiveInt | None = None
    # A team of weight 2 gets twice the tokens, or GPU time, of one of weight 1 while both wait.
    weight: Annotated[float, Range(ge=0.001, le=1_000)] = 1.0
    gpu_hours_per_month: NonNegativeFloat | None = None  # of jobs in a calendar month, UTC
    concurrent_gpus: NonNegativeInt | None = None  # of jobs that run at a time
    priority: Annotated[int, Range(ge=0, le=9)] = 0  # of jobs; those of a higher priority start first

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := sorted(self.scopes - SCOPES.keys()):
            raise ConfigError(f"scopes contains {unknown[0]!r}; give any of {', '.join(SCOPES)}.")


def parse_scopes(text: str) -> frozenset[str]:
    """Return the scopes of a list such as `rank,events`.

    Raises:
        UserError: A scope is unknown, or there is none.
    """
    scopes = frozenset(name.strip() for name in text.split(",") if name.strip())
    if not scopes or scopes - SCOPES.keys():
        raise UserError(f"{text!r} does not list scopes; give any of {', '.join(SCOPES)}, separated by commas.")
    return scopes


def missing_scope(team: Team, scope: str, action: str) -> str | None:
    """Return a sentence for a caller whose key lacks a scope, for a response of status 403; None if the key has it.

    Args:
        team: As `KeyFile.team` returned it.
        scope: One of `SCOPES`.
        action: What needs it, as the beginning of the sentence: `POST /v1/events`.
    """
    if scope in team.scopes:
        return None
    found = ", ".join(name for name in SCOPES if name in team.scopes) or "none"
    return (
        f"{action} needs a key with the scope {scope}, and this key of team {team.name} has {found}. Use another "
        f"key of the team, or ask the operators for the scope (brew360 keys create {team.name} --scopes ...)."
    )


_SETTINGS = {field.name for field in fields(Team)} - {"name"}


@dataclass(frozen=True, kw_only=True)
class _Key:
    team: Team  # with the scopes of the key
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


def create_key(path: Path, team: str, *, key_scopes: Collection[str] | None = None, **settings: Any) -> str:
    """Add a key to the file; create the file and the team if they do not exist.

    Args:
        path: The key file.
        team: Name of the team: letters, digits, `_`, `.` and `-`.
        key_scopes: The scopes of this key, if it has fewer than the team.
        settings: Fields of `Team` to set; None keeps the current value.

    Returns:
        The key. It is not stored, so a lost key must be replaced by a new one.

    Raises:
        UserError: The team's name or a setting is invalid, the team lacks a scope of the key, or the file cannot be
            read or written.
    """
    if not _TEAM.fullmatch(team):
        raise UserError(f"{team!r} cannot name a team; use 1 to 64 letters, digits, and any of _ . -")
    id_, secret, salt = secrets.token_hex(4), secrets.token_urlsafe(32), secrets.token_bytes(16)
    changes = {name: value for name, value in settings.items() if value is not None}
    key = {"salt": salt.hex(), "sha256": _digest(salt, secret).hex()}
    with _lock(path):
        data = _load(path) if path.exists() else {"teams": {}}
        entry = data["teams"].setdefault(team, {})
        entry.update(changes)
        if "scopes" in changes:
            entry["scopes"] = sorted(changes["scopes"])
            entry.pop("admin", None)
        entry.setdefault("keys", {})[id_] = key | ({} if key_scopes is None else {"scopes": sorted(key_scopes)})
        keys = _teams(path, data)  # validates the content before it is written
        if missing := sorted(set(key_scopes or ()) - keys[id_].team.scopes):
            raise UserError(
                f"team {team} has no scope {missing[0]}, so that its key cannot have it; give the scope to the team, "
                f"or leave it out of the key's."
            )
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
            team = _team(name, entry)
            for id_, key in (entry.get("keys") or {}).items():
                scopes = team.scopes if key.get("scopes") is None else team.scopes & _scopes(key["scopes"])
                keys[str(id_)] = _Key(
                    team=replace(team, scopes=scopes),
                    salt=bytes.fromhex(key["salt"]),
                    digest=bytes.fromhex(key["sha256"]),
                )
        except (AttributeError, ConfigError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: team {name!r} is malformed ({str(error).rstrip('.')}); fix it, or create its key again."
            ) from error
    return keys


def _team(name: Any, entry: Mapping[str, Any]) -> Team:
    settings = {key: value for key, value in entry.items() if key != "keys" and value is not None}
    admin = settings.pop("admin", False)
    if not (isinstance(name, str) and _TEAM.fullmatch(name)) or not isinstance(admin, bool):
        raise ValueError("its name or `admin` is malformed")
    if unknown := settings.keys() - _SETTINGS:
        raise ValueError(f"unknown key {unknown.pop()!r}")
    if admin and "scopes" in settings:
        raise ValueError("it has both `admin` and `scopes`; remove `admin`, which stands for all scopes")
    scopes = _scopes(settings.pop("scopes", SCOPES if admin else DEFAULT_SCOPES))
    return Team(name=name, scopes=scopes, **settings)


def _scopes(names: Any) -> frozenset[str]:
    """Return the scopes of a list in the file."""
    if isinstance(names, str) or not all(name in SCOPES for name in names):
        raise ValueError(f"scopes is {names!r}; give a list of any of {', '.join(SCOPES)}")
    return frozenset(names)

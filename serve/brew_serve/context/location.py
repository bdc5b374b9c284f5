"""Builds and opens the member context that a setting names: a SQLite file, or a Redis."""

from pathlib import Path

from brew_data.privacy.pseudonyms import Pseudonyms
from brew_data.schema import Tables
from brew_serve.context.base import Context, MemberContext
from brew_serve.context.pseudonymous import PseudonymousContext, require_same_key
from brew_serve.context.redis import RedisContext
from brew_serve.stores.redis_server import is_redis_url, without_password

__all__ = ["build_context", "check_context", "open_context", "public_location"]

_PREFIX = "brew360:"


def open_context(location: str, pseudonyms: Pseudonyms | None = None) -> Context:
    """Open a member context for reading.

    Args:
        location: Path of a file that `MemberContext.build` wrote, or address of a Redis that `RedisContext.build`
            filled, such as redis://:password@host:6379/0. A prefix of the keys other than brew360: follows the address
            after a `#`, as in redis://host:6379/0#shop:.
        pseudonyms: Of the members in the context; None: they have their ids.

    Raises:
        UserError: The file does not exist, or is not a member context; or the address is malformed.
    """
    context = _open(location)
    return context if pseudonyms is None else PseudonymousContext(context, pseudonyms)


def build_context(tables: Tables, location: str, *, key_id: str | None = None) -> None:
    """Write the context of `tables` to a location, where it replaces another one.

    Args:
        tables: Members, entities and interactions.
        location: As in `open_context`.
        key_id: Id of the key of the members' pseudonyms (`Pseudonyms.key_id`); None: they have their ids.

    Raises:
        UserError: The address is malformed.
        Unavailable: The Redis failed; the old context is still served.
    """
    if is_redis_url(location):
        RedisContext.build(tables, *_split(location), key_id=key_id)
    else:
        MemberContext.build(tables, Path(location), key_id=key_id)


def check_context(location: str, pseudonyms: Pseudonyms | None = None) -> None:
    """Check that a member context can be read, and that its members have the pseudonyms that the settings expect.

    Raises:
        UserError: As `open_context`, or the key of the pseudonyms is another one, or missing.
        Unavailable: The Redis does not answer, or contains no member context.
    """
    context = _open(location)
    try:
        context.check()
        require_same_key(context.key_id, pseudonyms, public_location(location))
    finally:
        context.close()


def public_location(location: str) -> str:
    """Return the location without a password: the absolute path, or the address."""
    return without_password(location) if is_redis_url(location) else str(Path(location).absolute())


def _open(location: str) -> MemberContext | RedisContext:
    return RedisContext(*_split(location)) if is_redis_url(location) else MemberContext(Path(location))


def _split(location: str) -> tuple[str, str]:
    """Return the address of a Redis, and the prefix of its keys."""
    url, _, prefix = location.partition("#")
    return url, prefix or _PREFIX

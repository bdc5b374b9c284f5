"""The errors that a user of brew360 can meet, each with what was given, why it fails, and what to do.

    BrewError
    ├── UserError          the caller can fix it: a path, a setting, a table, a request
    │   ├── ConfigError    an unknown or malformed setting
    │   └── DataError      a table or a row that cannot be read
    ├── StorageError       the object store failed: full, unreachable, refused
    └── RegistryError      a version is missing, damaged or may not be promoted

Holds the tree, and `first_cause`, which finds a BrewError inside what Ray wraps around it.
Every error takes one sentence and survives pickling, because it crosses process borders.
"""

import errno
import re

__all__ = ["BrewError", "ConfigError", "DataError", "RegistryError", "StorageError", "UserError", "first_cause"]


class BrewError(Exception):
    """Base of all errors that brew360 raises on purpose; `str(error)` is one clear sentence with the remedy."""


class UserError(BrewError):
    """What the caller gave cannot work."""


class ConfigError(UserError):
    """A setting is unknown or has the wrong type."""


class DataError(UserError):
    """An input table or row cannot be used."""


class StorageError(BrewError):
    """The object store failed; no object was written in part."""


class RegistryError(BrewError):
    """A registry version is missing, damaged, or failed a gate."""


def first_cause(error: BaseException) -> BaseException:
    """The innermost BrewError behind `error`, or `error` itself where there is none.

    Follows `__cause__`, `__context__` and Ray's `cause`. Where Ray passed an error on as text only, the text is read:
    in a traceback the innermost error comes first. A full disk (ENOSPC) anywhere in the chain becomes a
    StorageError with the remedy, since every stage can meet it.
    """
    seen: set[int] = set()
    found: BaseException = error
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, BrewError):
            found = current
        elif isinstance(current, OSError) and current.errno == errno.ENOSPC:
            return StorageError(
                f"no space left on the disk that holds {current.filename or 'the run folder'}: free some space, or "
                f"choose another disk with --run-dir."
            )
        current = getattr(current, "cause", None) or current.__cause__ or current.__context__
    if not isinstance(found, BrewError) and (quoted := _IN_TEXT.findall(str(error))):
        name, sentence = quoted[0]
        return _BY_NAME[name](sentence)
    return found


_BY_NAME = {kind.__name__: kind for kind in (BrewError, UserError, ConfigError, DataError, StorageError, RegistryError)}
_IN_TEXT = re.compile(rf"^{re.escape(__name__)}\.({'|'.join(_BY_NAME)}): (.+)$", re.MULTILINE)

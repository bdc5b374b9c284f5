"""The errors that brew360 raises. Each message states the value, why it fails, and how to fix it.

    BrewError
    ├── UserError          invalid input that the caller can fix: a path, a setting, a table, a request
    │   ├── ConfigError    a setting is unknown, malformed or out of range
    │   └── DataError      a table or a row that cannot be read
    ├── StorageError       the object store failed: full, unreachable, refused
    └── RegistryError      a version is missing or damaged, or cannot be promoted

`first_cause` finds a BrewError inside the exceptions of Ray. Every error takes one message and can be pickled, because
Ray sends errors between processes.
"""

import errno
import re

__all__ = ["BrewError", "ConfigError", "DataError", "RegistryError", "StorageError", "UserError", "first_cause"]


class BrewError(Exception):
    """The base class of all errors that brew360 raises on purpose. `str(error)` includes how to fix the problem."""


class UserError(BrewError):
    """The input is invalid."""


class ConfigError(UserError):
    """A setting is unknown, has the wrong type, or is out of its range."""


class DataError(UserError):
    """An input table or row cannot be used."""


class StorageError(BrewError):
    """The object store failed. No partial object was written."""


class RegistryError(BrewError):
    """A registry version is missing or damaged, or failed a release gate."""


def first_cause(error: BaseException) -> BaseException:
    """Return the outermost BrewError among `error` and its causes, or `error` itself if there is none.

    A BrewError that was raised for another one repeats its text and adds where it happened, such as a key or a line.
    The function follows `__cause__`, `__context__` and the attribute `cause` of Ray's errors. If Ray passed an error on
    as text only, the function parses the text; in a traceback the innermost error comes first. A full disk (ENOSPC)
    anywhere in the chain becomes a StorageError, because any stage can run into it.

    Args:
        error: Any exception.
    """
    seen: set[int] = set()
    found: BaseException = error
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, BrewError) and not isinstance(found, BrewError):
            found = current
        elif isinstance(current, OSError) and current.errno == errno.ENOSPC:
            return StorageError(
                f"no space left on the disk of {current.filename or 'the run folder'}. Free some space, or choose "
                f"another disk with --run-dir."
            )
        current = getattr(current, "cause", None) or current.__cause__ or current.__context__
    if not isinstance(found, BrewError) and (quoted := _IN_TEXT.findall(str(error))):
        name, sentence = quoted[0]
        return _BY_NAME[name](sentence)
    return found


_BY_NAME = {kind.__name__: kind for kind in (BrewError, UserError, ConfigError, DataError, StorageError, RegistryError)}
_IN_TEXT = re.compile(rf"^{re.escape(__name__)}\.({'|'.join(_BY_NAME)}): (.+)$", re.MULTILINE)

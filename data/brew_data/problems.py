"""Problems of a data set: what a check found, how often, and where."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Problem", "suggest"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One finding of a check.

    Args:
        table: The table or file that it concerns.
        message: What is wrong, and what to do.
        count: Number of rows or values that it concerns; None: it concerns the table as a whole.
        examples: Some of them, with file and line where they are known.
        is_error: Whether the data set cannot be built because of it.
    """

    table: str
    message: str
    count: int | None = None
    examples: list[str] = field(default_factory=list)
    is_error: bool = True


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known name that is nearest to `name`, or the known names if none is near."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(map(repr, names)) or 'none'}."

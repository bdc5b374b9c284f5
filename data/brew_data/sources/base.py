"""Sources of tables: the protocol of a source, and the registry of the installed ones.

A package registers a source as an entry point of the group `brew360.sources`; docs/how-to/add-a-source.md shows one.
"""

import dataclasses
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeGuard

from brew_data.problems import Problem
from brew_data.sources.quarantine import Quarantine
from brew_platform.errors import DataError, UserError
from brew_platform.settings import Settings

if TYPE_CHECKING:  # the command line lists the sources and must not wait for pyarrow
    import pyarrow as pa

    from brew_data.schema import Tables
    from brew_data.sources.locations import Location

__all__ = [
    "GROUP",
    "BatchSource",
    "NoSettings",
    "RowSource",
    "Source",
    "has_batches",
    "load_source",
    "open_source",
    "read_batches",
    "read_every_row",
    "read_source",
    "reads_rows",
    "source_names",
]

GROUP = "brew360.sources"


class Source(Protocol):
    """A source of tables.

    Attributes:
        name: Name of the entry point, and the value of `--source`.
        config_class: Keyword-only dataclass of the source's settings, every one with a default. It raises ConfigError
            for a value out of range. A recipe sets them under `source_config`.
        suite: The default task suite: the name of a built-in suite, or a folder; "": the recipe must name one.
        recipe: The default recipe of `brew360 demo`; None: the built-in recipe with the source's
            name, or `--recipe`.
        path_contents: A description of the files that `--path` names; None: the source does not read files.
        has_true_probabilities: Whether the tables have the true probability of every interaction (`Tables.oracle`). The
            report then shows the best reachable AUC.

    Args:
        config: An instance of `config_class`.
        path: Input files; None where `path_contents` is None.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]
    suite: ClassVar[str]
    recipe: ClassVar[Path | None]
    path_contents: ClassVar[str | None]
    has_true_probabilities: ClassVar[bool]

    def __init__(self, *, config: Any, path: Path | None) -> None: ...

    def read(self) -> "Tables":
        """Read or generate the tables. The same settings and files must give the same tables.

        Raises:
            DataError: The input cannot be read.
        """
        ...


class RowSource(Source, Protocol):
    """A source that reads files row by row and leaves out rows that break the schema."""

    def read_rows(self, quarantine: Quarantine) -> "Tables":
        """Read the tables without the rows that break the schema; these go to the quarantine.

        Raises:
            DataError: A file cannot be read, or no row is left.
        """
        ...

    def find_problems(self) -> list[Problem]:
        """Check, without reading all rows, that the files are there and have the columns that are needed."""
        ...

    def input_files(self) -> "list[Location]":
        """Return the files that are read.

        Raises:
            DataError: A file does not exist.
        """
        ...


class BatchSource(Source, Protocol):
    """A source that returns its tables in batches, so that they need not fit in memory."""

    def batches(self) -> "Iterator[tuple[str, pa.Table]]":
        """Yield the name of a table and some of its rows, which have the columns of `brew_data.schema.Tables`.

        Members come first. The rows are those of `read`, in any order and in batches of any size.

        Raises:
            DataError: The input cannot be read.
        """
        ...


def read_every_row(source: RowSource) -> "Tables":
    """Read the tables of a source and accept no row that breaks the schema.

    Raises:
        DataError: A file or a row cannot be read.
    """
    quarantine = Quarantine()
    tables = source.read_rows(quarantine)
    quarantine.require_share(0.0)
    return tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoSettings(Settings):
    """The settings of a source that has none."""


def source_names() -> list[str]:
    """Return the names of the installed sources, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def load_source(name: str) -> type[Source]:
    """Import the installed source with this name.

    Raises:
        UserError: No source has this name, several packages register it, or the registered object cannot be imported or
            is not a source.
    """
    entries = list(entry_points(group=GROUP, name=name))
    if not entries:
        raise UserError(
            f"source {name!r} is unknown; installed are {', '.join(source_names()) or 'none'}. To add one, install a "
            f"package with an entry point of that name in the group {GROUP} (docs/how-to/add-a-source.md)."
        )
    if len(entries) > 1:
        raise UserError(
            f"source {name!r} is registered several times, by {' and '.join(map(_origin, entries))}, so it is "
            f"ambiguous. Uninstall all but one of these packages."
        )
    [entry] = entries
    try:
        source = entry.load()
    except Exception as error:  # a plug-in may raise anything when it is imported
        raise UserError(
            f"source {name!r} ({_origin(entry)}) cannot be imported: {type(error).__name__}: {error}. Correct or "
            f"uninstall that package."
        ) from error
    required = [*Source.__annotations__, "read"]
    if missing := [attribute for attribute in required if not hasattr(source, attribute)]:
        raise UserError(
            f"source {name!r} ({_origin(entry)}) does not have {', '.join(missing)}. Define all attributes "
            f"of the protocol brew_data.sources.base.Source."
        )
    if source.name != name:
        raise UserError(
            f"the entry point {name!r} ({_origin(entry)}) is a source with the name {source.name!r}. Use one name."
        )
    return source


def open_source(name: str, config: Any, path: Path | None) -> Source:
    """Create the source with this name.

    Args:
        name: The name of an installed source.
        config: An instance of the source's `config_class`.
        path: The input files, if the source reads files.

    Raises:
        UserError: As in `load_source`, or `path` is missing or not accepted.
    """
    source = load_source(name)
    if source.path_contents is None and path is not None:
        raise UserError(f"source {name} takes no path; leave out --path or `path`.")
    if source.path_contents is not None and path is None:
        raise UserError(
            f"source {name} needs a path: {source.path_contents}. Set it with --path (brew360 demo) or path=... "
            f"(brew360 data)."
        )
    return source(config=config, path=path)


def read_source(source: Source, quarantine: Quarantine | None = None) -> "Tables":
    """Read the tables of a source, and check its `has_true_probabilities`.

    Args:
        source: The source.
        quarantine: Receives the rows that a `RowSource` leaves out. None: no row may be left out.

    Raises:
        DataError: As in `Source.read`, or `has_true_probabilities` does not match the tables.
    """
    tables = source.read_rows(quarantine) if quarantine is not None and reads_rows(source) else source.read()
    _check_oracle(source, tables.oracle is not None)
    return tables


def read_batches(source: Source, quarantine: Quarantine | None = None) -> "Iterator[tuple[str, pa.Table]]":
    """Read the tables of a source in batches, and check its `has_true_probabilities`.

    Args:
        source: The source; if it does not return batches, each table is one.
        quarantine: As for `read_source`.

    Raises:
        DataError: As in `read_source`.
    """
    if has_batches(source):
        has_oracle = False
        for name, rows in source.batches():
            has_oracle = has_oracle or name == "oracle"
            yield name, rows
        _check_oracle(source, has_oracle)
    else:
        yield from read_source(source, quarantine).present().items()


def has_batches(source: Source) -> TypeGuard[BatchSource]:
    """Whether a source is a `BatchSource`."""
    return hasattr(source, "batches")


def reads_rows(source: Source) -> TypeGuard[RowSource]:
    """Whether a source is a `RowSource`."""
    return hasattr(source, "read_rows")


def _check_oracle(source: Source, has_oracle: bool) -> None:
    if source.has_true_probabilities != has_oracle:
        raise DataError(
            f"source {source.name}: has_true_probabilities is {source.has_true_probabilities}, but its tables have "
            f"{'an' if has_oracle else 'no'} oracle. Correct the source."
        )


def _origin(entry: EntryPoint) -> str:
    package = f"package {entry.dist.name}, " if entry.dist is not None else ""
    return f"{package}{entry.value}"

"""Tables of the views: long cells are folded, nothing is cut, and an empty table is a sentence."""

from collections.abc import Collection

from rich.table import Table

from brew_platform.console.plain_console import PlainConsole

__all__ = ["add_row", "make_table", "print_table"]


def make_table(*columns: str, title: str | None = None, right: Collection[str] = ()) -> Table:
    """Return an empty table.

    Args:
        columns: The headings.
        title: Text above the table.
        right: The headings of right-aligned columns.
    """
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def add_row(table: Table, *cells: object) -> None:
    """Add a row; None is an empty cell."""
    table.add_row(*("" if cell is None else str(cell) for cell in cells))


def print_table(console: PlainConsole, table: Table, *, empty: str) -> None:
    """Print a table, or the sentence `empty` if it has no rows."""
    console.print(table if table.row_count else empty)

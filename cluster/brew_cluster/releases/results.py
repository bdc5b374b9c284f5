"""The results of releases side by side, as CSV, XLSX and HTML."""

import csv
import html
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import xlsxwriter

from brew_cluster.releases.config import SECTIONS
from brew_cluster.releases.run import RELEASE_FILE, ReleaseFolder, step_state
from brew_cluster.releases.sweep_file import SWEEP_FILE, read_sweep_file
from brew_cluster.releases.tracking import figures
from brew_platform.errors import UserError
from brew_platform.files import replace_atomically

__all__ = ["Table", "collect", "find_releases", "write_tables"]

Cell = str | int | float | None
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # texts that begin so are formulas to a spreadsheet
_IGNORED = ("publish.", "promote.force_reason")  # settings that say where, not what
_REFRESH_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of results.

    Args:
        columns: Headings.
        rows: Cells; None is an empty one.
        link: Number of the column whose cells are addresses.
        is_complete: Whether no step waits or runs.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    link: int
    is_complete: bool


def find_releases(folders: Iterable[Path]) -> list[Path]:
    """Return the folders of releases: those in `folders`, and those of the sweeps in it.

    Raises:
        UserError: A folder is neither of a release nor of a sweep.
    """
    found = []
    for folder in folders:
        if (folder / SWEEP_FILE).is_file():
            found += read_sweep_file(folder)
        elif (folder / RELEASE_FILE).is_file():
            found.append(folder)
        else:
            raise UserError(
                f"{folder} has neither {RELEASE_FILE} nor {SWEEP_FILE}. Pass folders that `brew360 release run` or "
                f"`brew360 release sweep` wrote."
            )
    return found


def collect(folders: Sequence[Path], *, base: Path) -> Table:
    """Read the results of releases.

    Args:
        folders: Of the releases; each is a row.
        base: Folder that the table is written to; links are relative to it.
    """
    releases = [ReleaseFolder.load(folder) for folder in folders]
    keys = list(dict.fromkeys(key for release in releases for key in release.settings if not key.startswith(_IGNORED)))
    changed = [key for key in keys if len({release.settings.get(key) for release in releases}) > 1]
    present = {step.name for release in releases for step in release.steps}
    names = [name for name in SECTIONS if name in present]
    measured = [figures(release.read_output("benchmark")) for release in releases]
    titles = list(dict.fromkeys(name for row in measured for name in row))
    columns = ["release", *changed, *(text for name in names for text in (name, f"{name} seconds"))]
    columns += [*titles, "version", "problem", "link"]
    rows, waits = [], False
    for release, folder, row_figures in zip(releases, folders, measured, strict=True):
        states = {step.name: step_state(step) for step in release.steps}
        waits = waits or any(state.state in ("waiting", "running") for state in states.values())
        row: list[Cell] = [release.name, *(release.settings.get(key) for key in changed)]
        for name in names:
            row += [states[name].state, round(states[name].seconds, 1)] if name in states else [None, None]
        row += [row_figures.get(title) for title in titles]
        problem = next((state.reason for state in states.values() if state.state == "failed"), None)
        link = release.tracking or os.path.relpath(folder, base)
        rows.append([*row, release.read_output("publish").get("number"), problem, link])
    return Table(columns=columns, rows=rows, link=len(columns) - 1, is_complete=not waits)


def write_tables(table: Table, folder: Path) -> list[Path]:
    """Write `table.csv`, `table.xlsx` and `table.html` atomically, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("table.csv", "table.xlsx", "table.html")]
    replace_atomically(files[0], to_csv(table))
    replace_atomically(files[1], to_xlsx(table))
    replace_atomically(files[2], to_html(table))
    return files


def to_csv(table: Table) -> str:
    """Return the table as CSV. A text that a spreadsheet would take for a formula begins with an apostrophe."""
    output = io.StringIO()
    writer = csv.writer(output)
    for row in [table.columns, *table.rows]:
        writer.writerow(["" if cell is None else _plain(cell) if isinstance(cell, str) else cell for cell in row])
    return output.getvalue()


def to_xlsx(table: Table) -> bytes:
    """Return the table as a workbook. All texts are written as strings, never as formulas or links."""
    output = io.BytesIO()
    book = xlsxwriter.Workbook(output, {"in_memory": True, "nan_inf_to_errors": True})
    sheet = book.add_worksheet("releases")
    bold = book.add_format({"bold": True})
    for column, title in enumerate(table.columns):
        sheet.write_string(0, column, title, bold)
    for number, row in enumerate(table.rows, 1):
        for column, cell in enumerate(row):
            if isinstance(cell, str):
                sheet.write_string(number, column, cell)
            elif cell is not None:
                sheet.write_number(number, column, cell)
    sheet.freeze_panes(1, 1)
    sheet.autofilter(0, 0, max(1, len(table.rows)), len(table.columns) - 1)
    sheet.autofit()
    book.close()
    return output.getvalue()


def to_html(table: Table) -> str:
    """Return the table as one page without other files. A click on a heading sorts; it reloads until all has ended."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in table.columns)
    rows = []
    for row in table.rows:
        cells = []
        for column, cell in enumerate(row):
            text = "" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)
            content = html.escape(text)
            if column == table.link:
                target = text if text.startswith(("http://", "https://")) else f"./{quote(text)}"
                content = f'<a href="{html.escape(target)}">{content}</a>'
            kind = f' class="{html.escape(text)}"' if text in ("failed", "done", "running") else ""
            cells.append(f"<td{kind}>{content}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    refresh = "" if table.is_complete else f'<meta http-equiv="refresh" content="{_REFRESH_SECONDS}">'
    return _PAGE.replace("@refresh@", refresh).replace("@head@", head).replace("@rows@", "\n".join(rows))


def _plain(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">@refresh@<title>Releases</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em }
table { border-collapse: collapse } th, td { padding: .3em .7em; border-bottom: 1px solid #ddd; text-align: left }
th { cursor: pointer; position: sticky; top: 0; background: #fff } td { font-variant-numeric: tabular-nums }
.failed { color: #b00020 } .done { color: #1b6e3c } .running { color: #8a5a00 }
</style></head><body><table><thead><tr>@head@</tr></thead><tbody>
@rows@
</tbody></table>
<script>
document.querySelectorAll("th").forEach((heading, column) => heading.onclick = () => {
  const body = document.querySelector("tbody"), down = heading.dataset.down !== "1";
  heading.dataset.down = down ? "1" : "0";
  const value = row => row.cells[column].textContent;
  [...body.rows].sort((a, b) => (down ? 1 : -1) * value(a).localeCompare(value(b), undefined, { numeric: true }))
    .forEach(row => body.append(row));
});
</script></body></html>
"""

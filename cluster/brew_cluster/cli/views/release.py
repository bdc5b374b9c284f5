"""The tables of `brew360 release`."""

from collections.abc import Sequence
from pathlib import Path

from brew_cluster.cli.views.table import add_row, make_table, print_table
from brew_cluster.releases.run import Change, ReleaseFolder, step_state
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import duration

__all__ = ["show_status"]


def show_status(console: PlainConsole, release: ReleaseFolder, changes: Sequence[Change]) -> None:
    """Print the steps of a release with their states and times, and which would run again."""
    again = {change.name: change.reason for change in changes}
    table = make_table(
        "step", "state", "time", "folder", "would run, because", title=f"{release.name}, {release.started}"
    )
    for step in release.steps:
        found = step_state(step)
        why = again.pop(step.name, "")
        state = f"{found.state}: {found.reason}" if found.reason else found.state
        add_row(table, step.name, state, duration(found.seconds) if found.seconds else "", _short(step.folder), why)
    for name, why in again.items():  # steps that the recipe did not have before
        add_row(table, name, "new", "", "", why)
    print_table(console, table, empty="The release has no steps.")
    version = release.read_output("publish").get("number")
    if version is not None:
        console.print(f"version: {version}")


def _short(folder: Path) -> str:
    return folder.name

"""The tables of `brew360 release`."""

from collections.abc import Sequence

from brew_cluster.cli.views.table import add_row, make_table, print_table
from brew_cluster.releases.run import Change, ReleaseFolder, step_state
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import duration

__all__ = ["show_status"]


def show_status(console: PlainConsole, release: ReleaseFolder, changes: Sequence[Change]) -> None:
    """Print the steps of a release with their states and times, and which would run again."""
    again = {change.name: change.reason for change in changes}
    table = make_table("step", "state", "time", "would run, because", title=f"{release.name}, {release.started}")
    reasons = []
    for step in release.steps:
        found = step_state(step)
        add_row(
            table, step.name, found.state, duration(found.seconds) if found.seconds else "", again.pop(step.name, "")
        )
        if found.reason:
            log = f" The log is {step.log}." if found.state == "failed" else ""
            reasons.append(f"{step.name} {found.state}: {found.reason}{log}")
    for name, why in again.items():  # steps that the recipe did not have before
        add_row(table, name, "new", "", why)
    print_table(console, table, empty="The release has no steps.")
    for reason in reasons:
        console.print(reason, soft_wrap=True)
    if (version := release.read_output("publish").get("number")) is not None:
        console.print(f"version: {version}")
    console.print(f"steps: {release.steps_folder}", soft_wrap=True)

"""Writes the demo's `report.json` and prints its tables."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brew_cluster.cli.views.table import add_row, make_table
from brew_cluster.jobs.demo_slates import DemoSlate
from brew_data.prompts.suite import TaskSuite
from brew_data.records import Records
from brew_platform.console.plain_console import PlainConsole
from brew_platform.files import replace_atomically
from brew_serve.schemas.rank import RankResponse

__all__ = ["show_curl", "show_figures", "show_rankings", "write_report"]

SHOWN = 3  # number of slates to print


def write_report(path: Path, report: Mapping[str, object]) -> None:
    """Write the report as JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, json.dumps(report, indent=2) + "\n")


def show_rankings(
    console: PlainConsole, answers: Sequence[tuple[DemoSlate, RankResponse]], records: Records, suite: TaskSuite
) -> None:
    """Print the first slates, the best candidate first, with the text and the probability of each entity."""
    for slate, answer in answers[:SHOWN]:
        profile = _one_line(suite.profile_text(records.profiles[slate.member_id]))
        title = f"{slate.task} for member {slate.member_id}: {profile}"
        table = make_table("", "candidate", "probability", title=title, right=["", "probability"])
        for place, item in enumerate(answer.ranking, start=1):
            entity = records.entities[item.id]
            text = _one_line(suite.entity_text(entity.entity_type, entity.fields))
            add_row(table, place, text, f"{item.score:.3f}")
        console.print(table)


def show_figures(console: PlainConsole, report: Mapping[str, Any]) -> None:
    """Print the figures of the run in one sentence."""
    train, serve = report["train"], report["serve"]
    console.print(
        f"trained {train['steps']:,} steps at {train['tokens_per_second']:,.0f} tokens/s; "
        f"version {report['registry']['version']} is in production; HTTP p50 {serve['p50_ms']:.0f} ms; "
        f"{report['seconds']['total']:.0f} s in all; peak memory {report['memory']['peak_bytes'] / 2**30:.1f} GiB"
    )


def show_curl(console: PlainConsole, url: str, slate: DemoSlate) -> None:
    """Print a complete curl command for a slate."""
    body = json.dumps({"task": slate.task, "member_id": slate.member_id, "candidates": slate.candidates})
    console.print("")
    console.print("The service is up. Example request:")
    console.print(f"curl -s {url}/v1/rank -H 'content-type: application/json' -d {shlex.quote(body)}")
    console.print("Stop it with: brew360 serve down")


def _one_line(text: str) -> str:
    return ", ".join(text.splitlines())

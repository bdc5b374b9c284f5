"""What the demo leaves behind: `report.json`, and the tables that it prints.

Holds their form.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from brew_cluster.jobs.demo_slates import DemoSlate
from brew_data.prompts.suite import TaskSuite
from brew_data.records import Records
from brew_platform.files import replace_atomically
from brew_serve.benchmark import TaskQuality
from brew_serve.schemas.rank import RankResponse

__all__ = ["show_curl", "show_figures", "show_quality", "show_rankings", "write_report"]

SHOWN = 3  # slates that are printed


def write_report(path: Path, report: Mapping[str, object]) -> None:
    """Writes the report as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, json.dumps(report, indent=2) + "\n")


def show_quality(console: Console, quality: Mapping[str, TaskQuality]) -> None:
    """Prints AUC per task between the popularity baseline and the best reachable one."""
    table = Table(title="Benchmark: AUC on rows strictly later than training", title_justify="left")
    for column in ["task", "rows", "popularity", "brew360", "best", "gap closed", "logloss"]:
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, task in quality.items():
        table.add_row(
            name,
            f"{task.rows:,}",
            _auc(task.baseline_auc),
            f"[bold]{_auc(task.auc)}[/bold]",
            _auc(task.best_auc),
            "-" if task.gap_closed is None else f"{task.gap_closed:.0%}",
            f"{task.logloss:.4f}",
        )
    console.print(table)


def show_rankings(
    console: Console, answers: Sequence[tuple[DemoSlate, RankResponse]], records: Records, suite: TaskSuite
) -> None:
    """Prints the first slates, best candidate first: what the entity says, and its probability."""
    for slate, answer in answers[:SHOWN]:
        profile = _one_line(suite.profile_text(records.profiles[slate.member_id]))
        table = Table(title=f"{slate.task} for member {slate.member_id}: {profile}", title_justify="left")
        for column in ["", "candidate", "probability"]:
            table.add_column(column, justify="left" if column == "candidate" else "right")
        for place, item in enumerate(answer.ranking, start=1):
            entity = records.entities[item.id]
            text = _one_line(suite.entity_text(entity.entity_type, entity.fields))
            table.add_row(str(place), text, f"{item.score:.3f}")
        console.print(table)


def show_figures(console: Console, report: Mapping[str, Any]) -> None:
    """Prints the run's figures in one sentence."""
    train, serve = report["train"], report["serve"]
    console.print(
        f"trained {train['steps']:,} steps at {train['tokens_per_second']:,.0f} tokens/s; "
        f"version {report['registry']['version']} is in production; HTTP p50 {serve['p50_ms']:.0f} ms; "
        f"{report['seconds']['total']:.0f} s in all; peak memory {report['memory']['peak_bytes'] / 2**30:.1f} GiB"
    )


def show_curl(console: Console, url: str, slate: DemoSlate) -> None:
    """Prints a request that works as it stands."""
    body = json.dumps({"task": slate.task, "member_id": slate.member_id, "candidates": slate.candidates})
    console.print("\nThe service is up. Ask it yourself:")
    console.print(
        f"curl -s {url}/v1/rank -H 'content-type: application/json' -d {shlex.quote(body)}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    console.print("Stop it with: brew360 serve down")


def _one_line(text: str) -> str:
    return ", ".join(text.splitlines())


def _auc(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"

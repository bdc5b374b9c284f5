"""Prints the output of the service commands: an example request, a ranking, the serving versions, API keys."""

import json
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from brew_cluster.cli.views.table import add_row, make_table, print_table
from brew_data.prompts.suite import TaskSuite
from brew_platform.console.plain_console import PlainConsole
from brew_platform.identity.keys import SCOPES, Team
from brew_serve.schemas.rank import RankResponse
from brew_serve.schemas.status import FleetStatus

__all__ = ["example_request", "show_keys", "show_ranking", "show_service", "show_status"]


def example_request(suite: TaskSuite) -> dict[str, Any]:
    """Return a valid request for a service with this suite: the first task, with member and candidates inline."""
    task = suite.tasks[0]
    fields = suite.entities[suite.surface(task.surface).entity_type].fields
    return {
        "task": task.name,
        "member": {"profile": {name: f"any {name}" for name in suite.profile.fields}},
        "candidates": [
            {"id": id_, "fields": {name: f"{which} {name}" for name in fields}}
            for id_, which in [("a", "any"), ("b", "another")]
        ],
    }


def show_service(
    console: PlainConsole, url: str, suite: TaskSuite, *, keyed: bool, logs: Sequence[str], foreground: bool
) -> None:
    """Print the address of the service, a complete curl command, and the places of the logs.

    Args:
        console: The output.
        url: The address of the service.
        suite: The task suite of the version that serves.
        keyed: Whether requests need an API key.
        logs: Paths or descriptions of the logs.
        foreground: Whether the service ends with Ctrl-C.
    """
    key = ' -H "authorization: Bearer $BREW360_API_KEY"' if keyed else ""
    lines = [
        "",
        f"The service is up at {url} (API documentation: {url}/docs). Example request:",
        f"curl -s {url}/v1/rank -H 'content-type: application/json'{key} "
        f"-d {shlex.quote(json.dumps(example_request(suite)))}",
        *([] if not keyed else ["BREW360_API_KEY is a key that `brew360 keys create` made."]),
        f"Logs: {' and '.join(logs)}",
        f"Show the serving versions: brew360 serve status --url {url}",
        "Stop it with Ctrl-C." if foreground else "Stop it with: brew360 serve down",
    ]
    for line in lines:
        console.print(line)


def show_ranking(console: PlainConsole, answer: RankResponse) -> None:
    """Print a ranking, the best candidate first, and the token counts and truncations of the response."""
    actions = list(answer.ranking[0].probabilities) if answer.ranking else []
    figures = ["score", *(f"P({action})" for action in actions)]
    title = f"{answer.task}, version {answer.version}"
    table = make_table("", "candidate", *figures, title=title, right=figures)
    for place, item in enumerate(answer.ranking, start=1):
        values = [item.score, *(item.probabilities[action] for action in actions)]
        add_row(table, place, item.id, *(f"{value:.4f}" for value in values))
    console.print(table)
    cut = answer.truncated
    lines = [
        f"{answer.usage.candidates} scored, {answer.usage.prompt_tokens:,} tokens read, {answer.milliseconds:.0f} ms",
        *([f"not scored by the deadline: {', '.join(answer.unscored)}"] if answer.partial else []),
        *([f"{cut.turns_dropped} past interactions did not fit"] if cut.turns_dropped else []),
        *([f"{cut.head_tokens_dropped} tokens of instruction and profile cut"] if cut.head_tokens_dropped else []),
        *([f"{cut.history_tokens_dropped} tokens of past entities cut"] if cut.history_tokens_dropped else []),
        *([f"cut for length: {', '.join(cut.candidates)}"] if cut.candidates else []),
    ]
    console.print("; ".join(lines))


def show_status(console: PlainConsole, status: FleetStatus, ready: str) -> None:
    """Print the serving versions.

    Args:
        console: The output.
        status: The versions, their roles and replicas.
        ready: A short text that says whether the service accepts requests.
    """
    columns = ["version", "role", "share", "replicas", "state"]
    title = f"{status.model}, following {status.alias}: {ready}"
    table = make_table(*columns, title=title, right=["version", "share", "replicas"])
    for version in status.versions:
        add_row(table, version.version, version.role, f"{version.share:.0%}", version.replicas, version.state)
    print_table(console, table, empty=f"{title}; no version serves")


def show_keys(console: PlainConsole, keys: Iterable[tuple[str, Team]]) -> None:
    """Print the ids of keys with their scopes, and the limits of their teams. The keys themselves are not stored."""
    numbers = ["requests/s", "tokens/min", "weight", "GPU-hours/month", "GPUs", "priority"]
    table = make_table("key", "team", "scopes", *numbers, right=numbers)
    for id_, team in keys:
        scopes = " ".join(scope for scope in SCOPES if scope in team.scopes)
        values = [
            team.requests_per_second,
            team.tokens_per_minute,
            team.weight,
            team.gpu_hours_per_month,
            team.concurrent_gpus,
            team.priority,
        ]
        shown = ["no limit" if value is None else f"{value:,.12g}" for value in values]
        add_row(table, id_, team.name, scopes, *shown)
    print_table(console, table, empty="no keys")

"""Prints jobs: tables, one job, the place in the queue, and a log that is followed."""

import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from brew_cluster.cli.views.table import add_row, make_table, print_table
from brew_cluster.gateway.client import JobClient
from brew_cluster.gateway.spec import JobState, TeamUsage
from brew_platform.console.plain_console import PlainConsole, escape_controls

__all__ = ["describe_state", "follow_job", "show_job", "show_jobs", "show_usage", "write_log"]

_LONGEST_COMMAND = 120  # characters in a list; `brew360 jobs show` prints all


def describe_state(job: JobState) -> str:
    """Return one sentence about a job: its state, its place in the queue, and why."""
    if job.state == "queued":
        place = "is next in the queue" if job.position is None else f"has place {job.position} in the queue"
        return f"{job.id} {place}{_because(job.reason)}."
    words = {"starting": "is starting", "running": "runs", "stopping": "is stopping"}.get(job.state, job.state)
    attempt = f" (attempt {len(job.attempts)})" if len(job.attempts) > 1 else ""
    return f"{job.id} {words}{attempt}{_because(job.reason)}."


def _because(reason: str) -> str:
    return f": {reason.removesuffix('.')}" if reason else ""


def show_jobs(console: PlainConsole, jobs: Sequence[JobState], *, all_teams: bool) -> None:
    """Print a table of jobs."""
    numbers = ["place", "attempt", "GPUs", "age"]
    table = make_table("job", *(["team"] if all_teams else []), "state", *numbers, "command", right=numbers)
    now = datetime.now(UTC)
    for job in jobs:
        add_row(
            table,
            job.id,
            *([job.team] if all_teams else []),
            job.state,
            job.position,
            len(job.attempts) or None,
            job.spec.gpus,
            _age((now - datetime.fromisoformat(job.accepted)).total_seconds()),
            job.spec.name or _shorten(job.command),
        )
    print_table(console, table, empty="no jobs. Submit one with `brew360 submit`; --ended also shows those that ended.")


def show_job(console: PlainConsole, job: JobState) -> None:
    """Print a job and its attempts."""
    console.print(describe_state(job))
    spec = job.spec
    labels = ", ".join(f"{key}={value}" for key, value in spec.node_labels.items())
    limit = f"at most {spec.max_seconds:,} s, " if spec.max_seconds else ""
    for name, value in (
        ("team", job.team),
        ("name", spec.name),
        ("command", job.command),
        ("needs", f"{spec.gpus} GPUs, {spec.cpus} CPUs{f', nodes with {labels}' if labels else ''}"),
        ("rules", f"{limit}{spec.retries} retries, priority {spec.priority}"),
        ("submitted", job.accepted),
        ("ended", job.ended),
        ("used", f"{job.gpu_seconds / 3_600:.2f} GPU-hours"),
    ):
        if value is not None:
            console.print(f"  {name:<10}{value}")
    table = make_table("attempt", "started", "ended", "outcome", "reason")
    for attempt in job.attempts:
        add_row(table, attempt.number, attempt.started, attempt.ended, attempt.outcome, attempt.reason)
    print_table(console, table, empty="  it has not started yet.")


def show_usage(console: PlainConsole, usage: TeamUsage) -> None:
    """Print what a team uses, and its quotas."""
    hours = "" if usage.gpu_hours_per_month is None else f" of {usage.gpu_hours_per_month:g}"
    gpus = "" if usage.concurrent_gpus is None else f" of {usage.concurrent_gpus}"
    console.print(f"team {usage.team}, {usage.month} (UTC)")
    console.print(f"  {'GPU-hours':<12}{usage.gpu_hours:.1f}{hours}")
    console.print(f"  {'GPUs now':<12}{usage.running_gpus}{gpus}")
    console.print(f"  {'jobs':<12}{usage.running} running, {usage.queued} queued")


def follow_job(
    client: JobClient, job: str, messages: PlainConsole, *, sleep: Callable[[float], None] = time.sleep
) -> JobState:
    """Print the log of a job while it runs, and each change of its state; return its final state.

    Args:
        client: The client.
        job: Id of the job.
        messages: Console of the changes of state; the log goes to the standard output.
        sleep: Waits for a number of seconds; for tests.
    """
    said, attempt, offset = "", 1, 0
    while True:
        state = client.show(job)
        part = client.log_part(job, attempt=attempt, offset=offset)
        has_all = (part.is_complete and attempt == part.attempts) or not part.attempts
        has_ended = state.has_ended and len(state.attempts) == part.attempts and has_all
        sentence = describe_state(state)
        if not state.has_ended and sentence != said:
            messages.print(sentence, style="yellow" if state.state == "queued" and state.attempts else None)
            said = sentence
        write_log(part.text)
        offset += len(part.text)
        if has_ended:
            messages.print(sentence)
            return state
        if part.is_complete and attempt < part.attempts:
            attempt, offset = attempt + 1, 0
        elif not part.text:
            sleep(1.0)


def write_log(text: str) -> None:
    """Print a part of a log, with the controls escaped that a terminal would act on."""
    lines = text.split("\n")
    sys.stdout.write("\n".join("\t".join(map(escape_controls, line.rstrip("\r").split("\t"))) for line in lines))
    sys.stdout.flush()


def _shorten(command: str) -> str:
    return command if len(command) <= _LONGEST_COMMAND else f"{command[: _LONGEST_COMMAND - 1]}\u2026"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"

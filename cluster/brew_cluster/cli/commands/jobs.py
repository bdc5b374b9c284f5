"""`brew360 jobs`: lists, shows, follows and cancels jobs, and runs the gateway that teams submit them to."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.client_options import KeyFile
from brew_cluster.cli.commands.submit import follow_until_end
from brew_cluster.cli.job_options import DEFAULT_URL, JobsUrl, open_job_client
from brew_cluster.cli.json_option import AsJson, print_json
from brew_cluster.cli.runner import report_errors
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]

JobId = Annotated[str, typer.Argument(help="Id of the job, such as job-17.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="List, follow and cancel jobs of a shared cluster; run its gateway.", no_args_is_help=True)
    for command in (list_, show, logs, cancel, usage, audit, serve):
        group.command(command.__name__.rstrip("_"))(command)
    app.add_typer(group, name="jobs")


def list_(
    ended: Annotated[bool, typer.Option("--ended", help="Also jobs that have ended.")] = False,
    all_teams: Annotated[bool, typer.Option("--all-teams", help="Of all teams; needs the scope admin.")] = False,
    url: JobsUrl = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """List the jobs of your team, the newest first.

    brew360 jobs list --ended
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.jobs import show_jobs

        with open_job_client(url, key_file) as client:
            jobs = client.jobs(all_teams=all_teams, ended=ended)
        if as_json:
            print_json([job.model_dump(mode="json") for job in jobs])
        else:
            show_jobs(console, jobs, all_teams=all_teams)


def show(job: JobId, url: JobsUrl = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Show a job: its state, why it waits or how it ended, and its attempts.

    brew360 jobs show job-17
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.jobs import show_job

        with open_job_client(url, key_file) as client:
            state = client.show(job)
        if as_json:
            print_json(state.model_dump(mode="json"))
        else:
            show_job(console, state)


def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more until the job has ended.")] = False,
    url: JobsUrl = DEFAULT_URL,
    key_file: KeyFile = None,
) -> None:
    """Print the log of a job, of all its attempts.

    brew360 jobs logs job-17 --follow

    Exit code with --follow: 0 if the job succeeded. Ctrl-C leaves the job running.
    """
    console, code = PlainConsole(), 0
    with report_errors(console):
        from brew_cluster.cli.views.jobs import write_log

        with open_job_client(url, key_file) as client:
            client.show(job)
            for text in () if follow else client.logs(job):
                write_log(text)
        if follow:
            code = follow_until_end(url, key_file, job, PlainConsole(stderr=True))
    if code:
        sys.exit(code)


def cancel(job: JobId, url: JobsUrl = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Cancel a job: it leaves the queue, or gets SIGTERM and a grace time.

    brew360 jobs cancel job-17
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.jobs import describe_state

        with open_job_client(url, key_file) as client:
            state = client.cancel(job)
        if as_json:
            print_json(state.model_dump(mode="json"))
        else:
            console.print(describe_state(state))


def usage(url: JobsUrl = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Show the GPU-hours and GPUs that your team uses, and its quotas.

    brew360 jobs usage
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.jobs import show_usage

        with open_job_client(url, key_file) as client:
            used = client.usage()
        if as_json:
            print_json(used.model_dump(mode="json"))
        else:
            show_usage(console, used)


def audit(
    after: Annotated[int, typer.Option(min=0, help="Number of the last event that you have.")] = 0,
    url: JobsUrl = DEFAULT_URL,
    key_file: KeyFile = None,
) -> None:
    """Print the events of the ledger, one JSON object a line: who submitted, cancelled or was refused what.

    brew360 jobs audit > audit.jsonl

    The key needs the scope admin. Errors go to the standard error.
    """
    with report_errors(PlainConsole(stderr=True)), open_job_client(url, key_file) as client:
        for event in client.audit(after=after):
            typer.echo(json.dumps(event))  # in ASCII, so that no text in it is a control character


def serve(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="A YAML file; then settings, e.g. gpus=256 port=8360", metavar="[FILE] [KEY=VALUE]..."),
    ] = None,
) -> None:
    """Run a job gateway before the Ray Jobs of a cluster. Ctrl-C or SIGTERM ends the gateway; jobs continue.

        brew360 jobs serve ray_address=http://127.0.0.1:8265 keys_path=keys.yaml gpus=0 cpus=8

        brew360 jobs serve gateway.yaml host=0.0.0.0

    docs/jobs.md lists the settings. Several gateways with the same store and name share the work.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.gateway.config import load_gateway
        from brew_cluster.gateway.server import run_gateway
        from brew_platform.console.logging import open_process_log
        from brew_platform.tracing import configure_tracing

        config = load_gateway(arguments or [])
        log = None if config.log_path is None else Path(config.log_path)

        def announce(address: str) -> None:
            console.print(f"The job gateway listens at {address}; its ledger {config.name} is in {config.store}.")
            place = "here" if log is None else f"in {log}"
            console.print(f"It runs jobs on {config.ray_address}. Its log is {place}. Ctrl-C ends it; jobs continue.")

        def report(problem: str) -> None:
            if log is not None:  # else the same is in the log here
                console.print(f"It cannot run jobs now: {problem}" if problem else "It can run jobs again.")

        configure_tracing("jobs")
        with open_process_log(log, process="jobs"):
            run_gateway(config, on_ready=announce, on_problem=report)
        console.print("The gateway has stopped; jobs continue.")

"""`brew360 benchmark online`: the figures of live traffic."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.duration_option import parse_duration
from brew_cluster.cli.runner import report_errors
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the group `benchmark`."""
    app.command()(online)


def online(
    answers: Annotated[str, typer.Option(help="The log of answers: answer_log.url of the service.")],
    events: Annotated[
        Path,
        typer.Option(
            help="Parquet file, or folder of them, with request_id, entity_id, action and time; or a data folder."
        ),
    ],
    data: Annotated[Path, typer.Option(help="Data folder of the versions: its suite says which actions are positive.")],
    report: Annotated[Path, typer.Option(help="Path of the summary, ending in .json; the reports are beside it.")],
    version: Annotated[list[int] | None, typer.Option(help="Only this version; may be repeated.")] = None,
    window: Annotated[
        timedelta, typer.Option(parser=parse_duration, help="Time after an answer in which an event counts.")
    ] = "7d",  # type: ignore[assignment]  # typer parses the default, too
    until: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"],
            help="All events up to this time (UTC) are there. Default: the last event.",
        ),
    ] = None,
    key_env: Annotated[str | None, typer.Option(help="Environment variable with the key of the log.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="File with the key of the log (answer_log.key).")] = None,
    replicates: Annotated[int, typer.Option(min=2, help="Replicates of the bootstrap.")] = 1_000,
) -> None:
    """Evaluate the versions that answered live traffic: production, canary and shadow, each from its logged answers.

        brew360 benchmark online --answers answers --key-file answers.key --events events --data data --report o.json

    Events join answers by request id, or interactions by member and entity. Candidates whose window is still open have
    no label yet. Each shadow is compared in pairs with the versions that answered the same requests.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.jobs.benchmark_online import evaluate_online, read_events, write_online
        from brew_data.data_folder import DataFolder
        from brew_data.privacy.pseudonyms import PseudonymConfig
        from brew_eval.measurement import EvaluationConfig
        from brew_eval.report.files import require_json_path

        require_json_path(report)
        key = None
        if key_env is not None or key_file is not None:
            key = PseudonymConfig(env=key_env, file=None if key_file is None else str(key_file)).open()
        found = evaluate_online(
            answers,
            read_events(events),
            DataFolder.open(data),
            window=window // timedelta(microseconds=1),
            until=None if until is None else (until.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1),
            versions=version or (),
            key=key,
            config=EvaluationConfig(replicates=replicates),
        )
        write_online(found, report, console)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

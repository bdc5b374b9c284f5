"""`brew360 keys create`, `list` and `revoke`: the API keys of teams, for the service and for jobs."""

from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.runner import report_errors
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]

KeysFile = Annotated[
    Path, typer.Option("--file", help="The key file that the service (middleware.keys_path) and the job gateway read.")
]
DEFAULT_FILE = Path("keys.yaml")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Create, list and revoke the API keys of teams.", no_args_is_help=True)
    group.command()(create)
    group.command("list")(list_)
    group.command()(revoke)
    app.add_typer(group, name="keys")


def create(
    team: Annotated[str, typer.Argument(help="Team of the key: letters, digits and _ . -")],
    file: KeysFile = DEFAULT_FILE,
    scopes: Annotated[
        str | None,
        typer.Option(
            help="What the team may do: any of rank, events, nearline (read rankings), jobs (submit them) and admin "
            "(operate). Default: unchanged, or rank,events,nearline."
        ),
    ] = None,
    key_scopes: Annotated[
        str | None, typer.Option(help="What this key may do of it, such as rank. Default: all that the team may do.")
    ] = None,
    requests_per_second: Annotated[
        float | None, typer.Option(help="Limit of the team. Default: unchanged, or no limit.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(help="Limit of the team. Default: unchanged, or no limit.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(help="Share beside teams that wait. Default: unchanged, or 1.")
    ] = None,
    gpu_hours_per_month: Annotated[
        float | None, typer.Option(help="GPU-hours of the team's jobs in a month. Default: unchanged, or no limit.")
    ] = None,
    concurrent_gpus: Annotated[
        int | None, typer.Option(help="GPUs of the team's jobs at a time. Default: unchanged, or no limit.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="Of the team's jobs, 0 to 9; higher ones start first. Default: unchanged, or 0.")
    ] = None,
) -> None:
    """Create a key, print it once, and store its hash. A running service accepts it at once.

    The options set the team's scopes and limits, for all its keys; only --key-scopes is about this key.

    brew360 keys create feed --requests-per-second 50 > feed.key

    brew360 keys create research --scopes jobs --gpu-hours-per-month 5000 --concurrent-gpus 64 > research.key
    """
    messages = PlainConsole(stderr=True)
    with report_errors(messages):
        from brew_platform.identity.keys import create_key, parse_scopes

        key = create_key(
            file,
            team,
            key_scopes=None if key_scopes is None else parse_scopes(key_scopes),
            scopes=None if scopes is None else parse_scopes(scopes),
            requests_per_second=requests_per_second,
            tokens_per_minute=tokens_per_minute,
            weight=weight,
            gpu_hours_per_month=gpu_hours_per_month,
            concurrent_gpus=concurrent_gpus,
            priority=priority,
        )
        messages.print(f"key of team {team}; {file} stores only its hash, so it is not shown again:")
        typer.echo(key)


def list_(file: KeysFile = DEFAULT_FILE) -> None:
    """List the ids of all keys with their scopes, and the limits of their teams.

    brew360 keys list
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.service import show_keys
        from brew_platform.identity.keys import list_keys

        show_keys(console, list_keys(file))


def revoke(
    key: Annotated[str, typer.Argument(help="Id of the key: the part between its underscores.")],
    file: KeysFile = DEFAULT_FILE,
) -> None:
    """Remove a key from the file. Running services refuse it at once.

    brew360 keys revoke 3f2a9c1b
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_platform.identity.keys import revoke_key

        team = revoke_key(file, key)
        console.print(f"key {key} of team {team.name} is revoked.")

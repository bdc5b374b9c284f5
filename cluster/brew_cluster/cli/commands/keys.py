"""`brew360 keys create`, `list` and `revoke`: the API keys of a service."""

from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.runner import report_errors
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]

KeysFile = Annotated[Path, typer.Option("--file", help="The key file that the service reads (middleware.keys_path).")]
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
    requests_per_second: Annotated[float | None, typer.Option(help="Limit of the team. Default: unchanged.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Limit of the team. Default: unchanged.")] = None,
    weight: Annotated[
        float | None, typer.Option(help="Share beside teams that wait. Default: unchanged, or 1.")
    ] = None,
    admin: Annotated[bool | None, typer.Option(help="Allow the team to read /metrics. Default: unchanged.")] = None,
) -> None:
    """Create a key, print it once, and store its hash. A running service accepts it at once.

    brew360 keys create feed --requests-per-second 50 > feed.key
    """
    messages = PlainConsole(stderr=True)
    with report_errors(messages):
        from brew_platform.identity.keys import create_key

        key = create_key(
            file,
            team,
            requests_per_second=requests_per_second,
            tokens_per_minute=tokens_per_minute,
            weight=weight,
            admin=admin,
        )
        messages.print(f"key of team {team}; {file} stores only its hash, so it is not shown again:")
        typer.echo(key)


def list_(file: KeysFile = DEFAULT_FILE) -> None:
    """List the ids of all keys, and the limits of their teams.

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

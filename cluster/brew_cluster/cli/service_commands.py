"""The commands around the service: start, look at and stop it, ask it, make its keys, score a batch.

Owns: their words. Does not own: what they do (`serve_job`, `score_job`, brew_serve.client, brew_serve.http.auth).
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brew_cluster.cli.command import logged, one_sentence, plain_sentence
from brew_platform.console.logging import PipeSafeConsole
from brew_platform.errors import UserError

if TYPE_CHECKING:
    from brew_serve.client import RankClient

__all__ = ["keys_app", "rank", "score", "serve_app"]

serve_app = typer.Typer(help="The ranking service.", no_args_is_help=True)
keys_app = typer.Typer(help="API keys of the teams that may ask a service.", no_args_is_help=True)

Url = Annotated[str, typer.Option(envvar="BREW360_URL", help="Address of the service.")]
ClientKey = Annotated[
    Path | None, typer.Option("--key-file", help="File that holds your API key. Default: the variable BREW360_API_KEY.")
]
KeyFile = Annotated[Path, typer.Option("--file", help="The file of keys that the service reads (edge.keys_path).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]

HERE = "http://127.0.0.1:8000"


@serve_app.command()
def up(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="A YAML file, or h100, which ships; then settings, e.g. port=8100 context_path=runs/a/context.sqlite",
            metavar="[RECIPE] [KEY=VALUE]...",
        ),
    ] = None,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and stop the service at Ctrl-C.")] = False,
) -> None:
    """Serve the registry's `production` version, on this machine's Ray or on the one that RAY_ADDRESS names.

        brew360 serve up

        brew360 serve up port=8100 context_path=runs/demo/context.sqlite

        brew360 serve up service.yaml edge.keys_path=keys.yaml host=0.0.0.0

    What can be set, and why it is set as it is: cluster/brew_cluster/recipes/serve.yaml and the docstrings it names.
    """
    console = PipeSafeConsole()
    with one_sentence(console, keep_children=not foreground):
        from brew_cluster.jobs.serve import load_serve, log_of, run_serve

        job = load_serve(arguments or [])
        with logged(log_of(job)):
            run_serve(job, console, foreground=foreground)


@serve_app.command()
def status(url: Url = HERE, key_file: ClientKey = None, as_json: AsJson = False) -> None:
    """Which versions serve, in which role, on how many replicas, and whether the service takes requests.

    brew360 serve status
    """
    console = PipeSafeConsole()
    with plain_sentence(console):
        from brew_cluster.cli.service_view import show_status
        from brew_platform.errors import BrewError

        with _client(url, key_file) as client:
            told = client.status()
            if as_json:
                typer.echo(told.model_dump_json(indent=2))
                return
            try:
                client.ready()
                ready = "takes requests"
            except BrewError as error:
                ready = f"takes none now ({error})"
        show_status(console, told, ready)


@serve_app.command()
def down() -> None:
    """Stop the service that `brew360 serve up` or `brew360 demo --keep` left running, and this machine's Ray."""
    with one_sentence(PipeSafeConsole()):
        from brew_cluster.jobs.serve import stop_serve

        stop_serve()


def rank(
    request: Annotated[str, typer.Argument(help="File of a /v1/rank request in JSON; - reads it from the input.")],
    url: Url = HERE,
    key_file: ClientKey = None,
    as_json: AsJson = False,
) -> None:
    """Ask a service to rank candidates, and print them, the best first.

    brew360 rank request.json

    brew360 rank - --json < request.json
    """
    console = PipeSafeConsole()
    with plain_sentence(console):
        body = _read_json(request)
        from brew_cluster.cli.service_view import show_ranking
        from brew_serve.client import Call
        from brew_serve.schemas.rank import RankResponse

        with _client(url, key_file) as client:
            answer = client.send(Call(method="POST", path="/v1/rank", answer=RankResponse, body=body))
        if as_json:
            typer.echo(answer.model_dump_json(indent=2))
        else:
            show_ranking(console, answer)


def score(
    requests: Annotated[Path, typer.Argument(help="Parquet file or folder of requests: task, member_id, candidates.")],
    out: Annotated[Path, typer.Argument(help="Folder of the scores; the same folder again continues the batch.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings, e.g. context_path=runs/demo/context.sqlite", metavar="[KEY=VALUE]..."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
) -> None:
    """Score a batch of requests with a version of the registry, or go on with one that was interrupted or killed.

        brew360 score requests.parquet runs/scores context_path=runs/demo/context.sqlite

    What was scored before is not scored again. docs/clients.md says which columns the requests have, and the scores.
    """
    console = PipeSafeConsole()
    with one_sentence(console):
        from brew_cluster.jobs.score import load_score, plan_score, run_score

        job = load_score(recipe, overrides or [])
        plan = plan_score(job, requests, out)
        with logged(out / "_logs" / "score.log"):
            run_score(job, plan, out, console)


@keys_app.command()
def create(
    team: Annotated[str, typer.Argument(help="Team that the key is for; letters, digits, and any of _ . -")],
    file: KeyFile = Path("keys.yaml"),
    requests_per_second: Annotated[float | None, typer.Option(help="Limit of the team. Default: as it is.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Limit of the team. Default: as it is.")] = None,
    admin: Annotated[bool | None, typer.Option(help="The team may read /metrics. Default: as it is.")] = None,
) -> None:
    """Make a key, print it once, and keep only its hash. A running service takes it at once.

    brew360 keys create feed --requests-per-second 50 > feed.key
    """
    told = PipeSafeConsole(stderr=True)
    with plain_sentence(told):
        from brew_serve.http.auth import create_key

        key = create_key(
            file, team, requests_per_second=requests_per_second, tokens_per_minute=tokens_per_minute, admin=admin
        )
        told.print(f"a key of team {team}; {file} holds its hash only, so it is not shown again:", soft_wrap=True)
        typer.echo(key)


@keys_app.command("list")
def list_(file: KeyFile = Path("keys.yaml")) -> None:
    """The ids of all keys, and what their teams may do."""
    console = PipeSafeConsole()
    with plain_sentence(console):
        from brew_cluster.cli.service_view import show_keys
        from brew_serve.http.auth import list_keys

        show_keys(console, list_keys(file))


@keys_app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Its id: the part of the key between its underscores.")],
    file: KeyFile = Path("keys.yaml"),
) -> None:
    """Take a key out of the file. Running services refuse it at once."""
    console = PipeSafeConsole()
    with plain_sentence(console):
        from brew_serve.http.auth import revoke_key

        team = revoke_key(file, key)
        console.print(f"key {key} of team {team.name} is refused from now on.", soft_wrap=True, highlight=False)


def _client(url: str, key_file: Path | None) -> "RankClient":
    from brew_serve.client import RankClient

    key = os.environ.get("BREW360_API_KEY") or None
    if key_file is not None:
        try:
            key = key_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{key_file} cannot be read ({error}); give the file that holds your API key.") from error
    if key is not None and not (key.isascii() and key.isprintable()):
        raise UserError("the API key is no single line of plain characters; give it as it was printed.")
    return RankClient(url, api_key=key)


def _read_json(request: str) -> dict[str, Any]:
    try:
        body = json.loads(sys.stdin.read() if request == "-" else Path(request).read_text())
    except OSError as error:
        raise UserError(f"{request} cannot be read ({error.strerror}); give a file with a /v1/rank request.") from error
    except ValueError as error:
        raise UserError(f"{request} is not valid JSON ({error}); write one object as docs/clients.md shows.") from error
    if not isinstance(body, dict):
        raise UserError(f"{request} holds no JSON object; write one as docs/clients.md shows.")
    return body

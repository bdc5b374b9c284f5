"""`brew360 rank`: one ranking request to a running service."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from brew_cluster.cli.client_options import DEFAULT_URL, KeyFile, Url, open_client
from brew_cluster.cli.json_option import AsJson, print_json
from brew_cluster.cli.runner import report_errors
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import UserError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(rank)


def rank(
    request: Annotated[str, typer.Argument(help="JSON file of a /v1/rank request; - reads the standard input.")],
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Send a ranking request to a running service and print the candidates, the best first.

    brew360 rank request.json

    brew360 rank - --json < request.json
    """
    console = PlainConsole()
    with report_errors(console):
        body = _read_json(request)
        from brew_cluster.cli.views.service import show_ranking
        from brew_serve.client import Call
        from brew_serve.schemas.rank import RankResponse

        with open_client(url, key_file) as client:
            response = client.send(Call(method="POST", path="/v1/rank", response_type=RankResponse, body=body))
        if as_json:
            print_json(response.model_dump(mode="json"))
        else:
            show_ranking(console, response)


def _read_json(request: str) -> dict[str, Any]:
    try:
        body = json.loads(sys.stdin.read() if request == "-" else Path(request).read_text())
    except OSError as error:
        raise UserError(f"{request} cannot be read ({error.strerror}); pass a file with a /v1/rank request.") from error
    except ValueError as error:
        raise UserError(f"{request} is not valid JSON ({error}); write an object as in docs/clients.md.") from error
    if not isinstance(body, dict):
        raise UserError(f"{request} does not hold a JSON object; write one as in docs/clients.md.")
    return body

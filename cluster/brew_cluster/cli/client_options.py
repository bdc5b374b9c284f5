"""Options of the commands that call a running service, and the client that they describe."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brew_platform.errors import UserError

if TYPE_CHECKING:
    from brew_serve.client import RankClient

__all__ = ["DEFAULT_URL", "KeyFile", "Url", "open_client", "read_key"]

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_VARIABLE = "BREW360_API_KEY"

Url = Annotated[str, typer.Option(envvar="BREW360_URL", help="Address of the service.")]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", help="File with your API key. Default: the environment variable BREW360_API_KEY."),
]


def open_client(url: str, key_file: Path | None) -> "RankClient":
    """Return a client of the service at `url`, with the API key from `key_file` or from BREW360_API_KEY.

    Raises:
        UserError: The key cannot be read, or is not one line of printable ASCII characters.
    """
    from brew_serve.client import RankClient

    return RankClient(url, api_key=read_key(key_file))


def read_key(key_file: Path | None, variable: str = KEY_VARIABLE) -> str | None:
    """Return the API key in a file, or in an environment variable if there is no file; None if there is neither.

    Raises:
        UserError: As `open_client`.
    """
    key = os.environ.get(variable) or None
    if key_file is not None:
        try:
            key = key_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{key_file} cannot be read ({error}); pass the file that holds your API key.") from error
    if key is not None and not (key.isascii() and key.isprintable()):
        raise UserError("the API key is not a single line of ASCII characters; pass it as it was printed.")
    return key

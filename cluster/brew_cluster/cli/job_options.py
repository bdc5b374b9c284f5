"""Options of the commands that call a job gateway, and the client that they describe."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brew_cluster.cli.client_options import read_key
from brew_platform.errors import BrewError

if TYPE_CHECKING:
    from brew_cluster.gateway.client import JobClient

__all__ = ["DEFAULT_URL", "JobsUrl", "open_job_client"]

DEFAULT_URL = "http://127.0.0.1:8360"

JobsUrl = Annotated[str, typer.Option("--url", envvar="BREW360_JOBS_URL", help="Address of the job gateway.")]


def open_job_client(
    url: str,
    key_file: Path | None,
    *,
    patience_seconds: float = 3.0,
    on_wait: Callable[[BrewError], None] = lambda failure: None,
) -> "JobClient":
    """Return a client of the gateway at `url`, with the API key from `key_file` or from BREW360_API_KEY.

    Args:
        url: Address of the gateway.
        key_file: File with the key; None: the variable.
        patience_seconds: How long a call is repeated while the gateway does not answer.
        on_wait: Called with the failure before a call is repeated.

    Raises:
        UserError: The key cannot be read, or is not one line of printable ASCII characters.
    """
    from brew_cluster.gateway.client import JobClient

    return JobClient(url, api_key=read_key(key_file), patience_seconds=patience_seconds, on_wait=on_wait)

"""Options of the commands that use a registry."""

import getpass
import os
from typing import Annotated

import typer

__all__ = ["Author", "Note", "RegistryName", "RegistryUrl", "VersionName", "user_name"]

Author = Annotated[str | None, typer.Option(help="Name for the log. Default: your user name.")]
Note = Annotated[str, typer.Option(help="Text for the log.")]
RegistryUrl = Annotated[
    str | None,
    typer.Option(
        "--registry",
        envvar="BREW360_REGISTRY",
        help="Store of the registry: a folder or s3://bucket/prefix. Default: runs/registry.",
    ),
]
RegistryName = Annotated[str | None, typer.Option("--model", help="Name of the model there. Default: brew360.")]
VersionName = Annotated[str, typer.Argument(help="Number of a version, or an alias such as production.")]


def user_name() -> str:
    """Return the name of the user who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under an id without a name
        return f"uid {os.getuid()}"

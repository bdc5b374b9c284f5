"""Options of the commands that use the model registry."""

from typing import Annotated

import typer

__all__ = ["RegistryName", "RegistryUrl"]

RegistryUrl = Annotated[
    str | None,
    typer.Option("--registry", envvar="BREW360_REGISTRY", help="Store of the registry. Default: runs/registry."),
]
RegistryName = Annotated[str | None, typer.Option("--model", help="Name of the model there. Default: brew360.")]

"""The option --json, and how its output is printed."""

import json
from typing import Annotated, Any

import typer

__all__ = ["AsJson", "print_json"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: Any) -> None:
    """Print a value as indented JSON in ASCII, so that no text in it reaches the terminal as a control character."""
    typer.echo(json.dumps(value, indent=2))

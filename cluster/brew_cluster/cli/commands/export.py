"""`brew360 export`: the weights of a run's newest checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.runner import supervise
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(export)


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a training run; it may be running.")],
    out: Annotated[Path, typer.Argument(help="Folder to write: safetensors that transformers and vLLM load.")],
) -> None:
    """Export the averaged weights of a run's newest checkpoint, also while it trains.

    brew360 export runs/cpt runs/cpt-now
    """
    console = PlainConsole()
    with supervise(console):
        from brew_cluster.jobs.train import export_run

        step = export_run(run, out)
        console.print(f"exported step {step} to {out}")

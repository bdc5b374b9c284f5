"""`brew360 data`: the input of training."""

from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.runner import log_to, supervise
from brew_data.sources.base import source_names
from brew_platform.console.progress import PipeSafeConsole
from brew_platform.errors import UserError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(data)


def data(
    out: Annotated[Path, typer.Argument(help="Folder to create; it must be empty or absent.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings of the recipe, e.g. vocabulary_size=4000", metavar="[KEY=VALUE]..."),
    ] = None,
    source: Annotated[
        str, typer.Option(help=f"Source of the tables; installed are {', '.join(source_names())}.")
    ] = "synthetic",
    path: Annotated[Path | None, typer.Option(help="Input files, for a source that reads some.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file of settings. Default: the recipe of the source.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=0, help="Number of preference pairs, for DPO and ORPO.")] = 2_000,
) -> None:
    """Build what `brew360 train` reads: tables, a tokenizer, packed bins, and preference pairs.

    brew360 data data/synthetic

    brew360 data data/movielens --source movielens --path ml-100k --pairs 0
    """
    console = PipeSafeConsole()
    with supervise(console):
        from brew_cluster.jobs.dataset import make_dataset
        from brew_cluster.jobs.demo_config import load_recipe

        config = load_recipe(source, overrides or [], recipe=recipe)
        if out.exists() and any(out.iterdir()):
            raise UserError(f"{out} is not empty: choose another folder, or remove that one.")
        with log_to(out / "logs" / "data.log"):
            make_dataset(config, out.absolute(), console, path=path, pairs=pairs)

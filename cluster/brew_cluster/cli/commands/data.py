"""`brew360 data build` and `validate`: the input of training."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.runner import log_to, report_errors, supervise
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]

Recipe = Annotated[str, typer.Argument(help="A YAML file, or a built-in recipe: synthetic, movielens, mind, ...")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings of the recipe, e.g. tokenizer.vocabulary_size=4000", metavar="[KEY=VALUE]..."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Build and check the input of training.", no_args_is_help=True)
    group.command()(build)
    group.command()(validate)
    app.add_typer(group, name="data")


def build(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder to create; it must be empty or absent.")] = ...,  # type: ignore[assignment]
) -> None:
    """Build what `brew360 train` reads: tables, prompts, packed bins, preference pairs, and a card.

    brew360 data build synthetic --out data/synthetic

    brew360 data build movielens --out data/movielens path=ml-100k

    brew360 data build shop.yaml --out data/shop
    """
    console = PlainConsole()
    with supervise(console):
        from brew_cluster.jobs.dataset_config import load_dataset_config

        config = load_dataset_config(recipe, overrides or [])
        from brew_cluster.jobs.dataset import build_folder, make_dataset, phase_names, print_summary
        from brew_platform.console.progress import Phases

        with build_folder(out.absolute()) as folder, log_to(folder / "logs" / "data.log"):
            card = make_dataset(config, folder, Phases(phase_names(config), console=console))
        print_summary(card, config, out, console)


def validate(recipe: Recipe, overrides: Overrides = None) -> None:
    """Check files, columns, values, suite and split, and print all problems; nothing is written.

    Exit code: 0 if the data can be built, 2 if not.

    brew360 data validate shop.yaml
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.jobs.dataset_config import load_dataset_config

        config = load_dataset_config(recipe, overrides or [])
        from brew_cluster.jobs.dataset_check import check_dataset, print_check

        check = check_dataset(config)
        print_check(check, console)
        if not check.errors:
            console.print("The data can be built.")
            return
        count = f"{len(check.errors)} error{'s' * (len(check.errors) != 1)}"
        console.print(f"{count}: the data cannot be built.", style="red")
    sys.exit(2)

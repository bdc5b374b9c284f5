"""`brew360 data`: builds, checks, shows and publishes the input of training."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.json_option import AsJson, print_json
from brew_cluster.cli.registry_options import Author, RegistryUrl, VersionName, user_name
from brew_cluster.cli.runner import log_to, report_errors, supervise
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]

Recipe = Annotated[str, typer.Argument(help="A YAML file, or a built-in recipe: synthetic, movielens, mind, ...")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings of the recipe, e.g. tokenizer.vocabulary_size=4000", metavar="[KEY=VALUE]..."),
]
Folder = Annotated[Path, typer.Argument(help="Data folder, from `brew360 data build`.")]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", help="Name of the data set in the registry. Default: brew360.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Build, check, show and publish the input of training.", no_args_is_help=True)
    for command in (build, validate, append, inspect, card, publish, list_, show, fetch, verify):
        group.command(command.__name__.rstrip("_"))(command)
    app.add_typer(group, name="data")


def build(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder to create; it must be empty or absent.")] = ...,  # type: ignore[assignment]
) -> None:
    """Build what `brew360 train` reads: tables, prompts, packed bins, preference pairs, and a card.

    A build of the same recipe and folder that was killed is continued.

    brew360 data build synthetic --out data/synthetic

    brew360 data build movielens --out data/movielens path=ml-100k

    brew360 data build shop.yaml --out data/shop
    """
    console = PlainConsole()
    with supervise(console):
        from brew_cluster.jobs.dataset_config import load_dataset_config

        config = load_dataset_config(recipe, overrides or [])
        from brew_cluster.jobs.dataset import build_folder, make_dataset, phase_names, print_summary
        from brew_platform.config import config_digest
        from brew_platform.console.progress import Phases

        settings = config_digest(config)
        with build_folder(out.absolute(), settings=settings) as folder, log_to(folder / "logs" / "data.log"):
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


def append(
    recipe: Recipe,
    overrides: Overrides = None,
    data: Annotated[Path, typer.Option(help="Data folder to add to; it stays as it is.")] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(help="Folder to create; it must be empty or absent.")] = ...,  # type: ignore[assignment]
) -> None:
    """Add further days to a data set: a new folder with the rows and bins of the other one, and those of the days.

    The recipe is that of the data set, with the input of the further days.

    brew360 data append shop.yaml --data data/shop --out data/shop-2 source_config.interactions.files=[june.csv]

    Files of bins that exist are linked. Only interactions that were not trained before are compiled.
    """
    console = PlainConsole()
    with supervise(console):
        from brew_cluster.jobs.dataset_config import load_dataset_config
        from brew_data.data_folder import DataFolder

        config, existing = load_dataset_config(recipe, overrides or []), DataFolder.open(data.absolute())
        from brew_cluster.jobs.dataset import build_folder, print_summary
        from brew_cluster.jobs.dataset_append import append_days, append_phases
        from brew_platform.console.progress import Phases

        with build_folder(out.absolute()) as folder, log_to(folder / "logs" / "data.log"):
            card = append_days(config, existing, folder, Phases(append_phases(existing), console=console))
        print_summary(card, config, out, console)


def inspect(
    folder: Folder,
    member: Annotated[str | None, typer.Option(help="Show the training documents of this member.")] = None,
    task: Annotated[str | None, typer.Option(help="With --member: show the prompt of this task instead.")] = None,
    interaction: Annotated[
        int | None, typer.Option(help="With --task: the interaction to predict. Default: the newest one.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="With --task: another history policy, e.g. name=similarity.", metavar="KEY=VALUE"),
    ] = None,
    bin_: Annotated[int | None, typer.Option("--bin", help="Show the documents of this bin, from 0 on.")] = None,
    document: Annotated[int | None, typer.Option(help="Show this document of the bins, from 0 on. Default: 0.")] = None,
    bins: Annotated[str, typer.Option(help="Folder of the bins: bins, evaluation, pairs, ...")] = "bins",
    as_json: AsJson = False,
) -> None:
    """Show documents or a prompt token by token: which carry loss, what was cut, and why each turn is shown.

    brew360 data inspect data/synthetic --document 7

    brew360 data inspect data/synthetic --bin 3 --bins evaluation

    brew360 data inspect data/synthetic --member m17

    brew360 data inspect data/synthetic --member m17 --task job_apply

    brew360 data inspect data/synthetic --member m17 --task job_apply --policy name=similarity
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.inspection import show_inspection
        from brew_cluster.jobs.data_inspect import inspect_bin, inspect_document, inspect_member
        from brew_data.data_folder import DataFolder
        from brew_platform.errors import UserError

        if sum(option is not None for option in (member, bin_, document)) > 1:
            raise UserError("--member, --bin and --document exclude each other. Give one of them.")
        if (member is None and task is not None) or (task is None and (interaction is not None or policy)):
            raise UserError("--task needs --member, and --interaction and --policy need --task. Give both, or neither.")
        data = DataFolder.open(folder)
        if member is not None:
            found = inspect_member(data, member, task=task, interaction_id=interaction, policy=policy or ())
        elif bin_ is not None:
            found = inspect_bin(data, bins, bin_)
        else:
            found = [inspect_document(data, bins, document or 0)]
        if as_json:
            print_json([asdict(inspection) for inspection in found])
            return
        for inspection in found:
            show_inspection(console, inspection)


def card(folder: Folder, as_json: AsJson = False) -> None:
    """Print the card of a data folder: its tasks, actions, documents, and what was left out.

    The folder has the same card with plots, `card.md`.

    brew360 data card data/synthetic
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.card import show_card
        from brew_cluster.jobs.dataset_card import read_card
        from brew_data.data_folder import DataFolder

        content = read_card(DataFolder.open(folder).folder)
        if as_json:
            print_json(content)
            return
        show_card(console, content)


def publish(
    folder: Folder,
    author: Author = None,
    registry: RegistryUrl = None,
    dataset: DatasetName = None,
    as_json: AsJson = False,
) -> None:
    """Publish a data folder as the next version of a data set, with its lineage and the figures of its card.

    brew360 data publish data/synthetic

    A version never changes. Files that versions share are stored once, and the same content is published once.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.jobs.data_versions import open_datasets, publish_data
        from brew_platform.console.progress import Phases

        opened = open_datasets(registry, dataset, empty=True)
        before = opened.versions()
        messages = PlainConsole(stderr=True) if as_json else console
        with Phases(["publish"], console=messages).phase("publish", unit="MB") as progress:
            version = publish_data(
                opened,
                folder,
                author=author or user_name(),
                on_progress=lambda done, total: progress.update(done / 1e6, total=total / 1e6),
            )
        if as_json:
            print_json(asdict(version))
        elif version.number in before:
            console.print(f"{folder} has the content of version {version.number} of {opened.model}.")
        else:
            console.print(f"{opened.model} has version {version.number} now, {len(version.files)} files.")


def list_(registry: RegistryUrl = None, dataset: DatasetName = None, as_json: AsJson = False) -> None:
    """List the versions of a data set.

    brew360 data list
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.registry import show_datasets
        from brew_cluster.jobs.data_versions import open_datasets

        opened = open_datasets(registry, dataset)
        versions = [opened.version(number) for number in opened.versions()]
        if as_json:
            print_json([asdict(version) for version in versions])
            return
        show_datasets(console, versions)


def show(
    version: VersionName, registry: RegistryUrl = None, dataset: DatasetName = None, as_json: AsJson = False
) -> None:
    """Show the lineage, figures and files of a version: input files, configuration, commit, and what it continues.

    brew360 data show 1
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.registry import show_version
        from brew_cluster.jobs.data_versions import open_datasets

        opened = open_datasets(registry, dataset)
        found = opened.version(opened.resolve(version))
        if as_json:
            print_json(asdict(found))
            return
        show_version(console, found, opened.events())


def fetch(
    version: VersionName,
    into: Annotated[Path, typer.Option(help="Folder that receives the data folder.")] = Path("data"),
    registry: RegistryUrl = None,
    dataset: DatasetName = None,
) -> None:
    """Download a version and verify every file; print the data folder, which `brew360 train` reads.

    brew360 data fetch 1 --into data
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.jobs.data_versions import open_datasets

        opened = open_datasets(registry, dataset)
        console.print(str(opened.fetch(opened.resolve(version), into)))


def verify(
    version: Annotated[str | None, typer.Argument(help="Number of a version. Default: all versions.")] = None,
    registry: RegistryUrl = None,
    dataset: DatasetName = None,
    as_json: AsJson = False,
) -> None:
    """Hash every stored file again, and list what is missing or damaged; then the exit code is 1.

    brew360 data verify
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.commands.registry import verify_versions
        from brew_cluster.jobs.data_versions import open_datasets

        verify_versions(open_datasets(registry, dataset), version, console, as_json=as_json)

"""`brew360 data`: builds, checks, mixes, shows and publishes the input of training."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.client_options import KeyFile, read_key
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
    for command in (build, validate, append, inspect, card, search_mix, pairs, publish, list_, show, fetch, verify):
        group.command(command.__name__.rstrip("_").replace("_", "-"))(command)
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
        from brew_cluster.jobs.build_folder import build_folder
        from brew_cluster.jobs.dataset import make_dataset, phase_names
        from brew_cluster.jobs.dataset_summary import print_summary
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
        from brew_cluster.jobs.build_folder import build_folder
        from brew_cluster.jobs.dataset_append import append_days, append_phases
        from brew_cluster.jobs.dataset_summary import print_summary
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


def pairs(
    folder: Folder,
    out: Annotated[Path, typer.Argument(help="Folder of the pairs; the same folder again continues the run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings, e.g. url=http://127.0.0.1:8000/v1 model=brew360", metavar="[KEY=VALUE]..."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    key_file: KeyFile = None,
    judge_key_file: Annotated[
        Path | None,
        typer.Option(help="File with the judge's API key. Default: the environment variable BREW360_JUDGE_API_KEY."),
    ] = None,
) -> None:
    """Make preference pairs: a served model answers instructions about the data, and a judge ranks the answers.

    The model is behind any endpoint with OpenAI's chat completions, such as `brew360 serve up` or vLLM. An instruction
    shows what a ranking prompt shows, and requests a label and its reason. Rules rank the answers (the right label, the
    length, the script, an end), or another model does. The best and the worst answer are a pair, with their scores.

    brew360 data pairs data/synthetic runs/pairs url=http://127.0.0.1:8000/v1 model=brew360

    brew360 data pairs data/synthetic runs/pairs url=http://127.0.0.1:8000/v1 model=brew360 instructions=5000 answers=8

    brew360 data pairs data/synthetic runs/judged url=http://127.0.0.1:8000/v1 model=brew360
    judge.url=http://gpu1:8001/v1 judge.model=judge

    Every answer is kept in answers.jsonl at once: a run that was interrupted continues, and requests nothing twice.
    pairs.jsonl has the pairs, from which DPO and ORPO train (docs/preferences.md); summary.json has figures. API keys
    are read from the environment or from a file only.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.jobs.data_pairs import load_pairs, make_pairs, print_pairs
        from brew_data.data_folder import DataFolder
        from brew_platform.console.progress import Phases

        job, data = load_pairs(recipe, overrides or []), DataFolder.open(folder)
        key, judge_key = read_key(key_file), read_key(judge_key_file, "BREW360_JUDGE_API_KEY")
        with log_to(out / "logs" / "pairs.log"):
            summary = make_pairs(job, data, out, Phases(["answers"], console=console), key=key, judge_key=judge_key)
        print_pairs(summary, job, out, console)


def search_mix(
    folder: Folder,
    corpus: Annotated[str, typer.Argument(help="A corpus of the data: a key of `corpora` in their recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings of the search, e.g. mixes=24 tokens=1_000_000", metavar="[KEY=VALUE]..."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Settings of the search: a YAML file, or a shipped recipe.")] = "small",
    out: Annotated[Path, typer.Option(help="Folder of the search.")] = ...,  # type: ignore[assignment]
    as_json: AsJson = False,
) -> None:
    """Find the weights of the sources of a corpus, by training small models on mixes of them.

    brew360 data search-mix data/network cpt --out runs/mix

    brew360 data search-mix data/network cpt --out runs/mix mixes=24 weights.job_apply=2

    Each trial trains a small model from scratch on another mix, and measures its loss on the chats of held-out members,
    by task. The loss as a function of the shares is fitted, and checked by leaving out one mix at a time. The weights
    with the lowest loss are printed for the recipe; `brew360 data build` with them writes the outcome to the card.

    The same command with the same folder continues a search. It writes mix_search.json and mix_search.svg there.
    """
    console = PlainConsole(stderr=True) if as_json else PlainConsole()
    with supervise(console):
        from brew_cluster.cli.views.mix_search import mix_search_svg, show_mix_search
        from brew_cluster.jobs.mix_search import PHASES, RESULT
        from brew_cluster.jobs.mix_search import search_mix as search
        from brew_cluster.jobs.mix_search_config import load_mix_search
        from brew_data.data_folder import DataFolder
        from brew_platform.console.progress import Phases
        from brew_platform.files import replace_atomically

        config, data = load_mix_search(recipe, overrides or []), DataFolder.open(folder.absolute())
        with log_to(out / "logs" / "search.log"):
            result = search(config, data, corpus, out, Phases(PHASES, console=console))
        replace_atomically((out / RESULT).with_suffix(".svg"), mix_search_svg(result))
        if as_json:
            print_json(result)
            return
        show_mix_search(console, result)
        console.print(f"figures: {out / RESULT} and {(out / RESULT).with_suffix('.svg')}")


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

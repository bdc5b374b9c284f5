"""`brew360 registry`: publish model versions, show and verify them."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brew_cluster.cli.commands.registry_decisions import canary, check, promote, retire, rollback, shadow
from brew_cluster.cli.commands.registry_upkeep import approve, card, copy, gc, policy
from brew_cluster.cli.json_option import AsJson, print_json
from brew_cluster.cli.registry_options import Author, RegistryName, RegistryUrl, VersionName, user_name
from brew_cluster.cli.runner import report_errors
from brew_platform.console.plain_console import PlainConsole

if TYPE_CHECKING:
    from brew_platform.registry.registry import Registry

__all__ = ["register", "verify_versions"]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Publish model versions, and decide which one serves.", no_args_is_help=True)
    read = (list_, show, card, log, diff)
    change = (approve, check, promote, rollback, canary, shadow, retire, policy)
    for command in (publish, *read, *change, verify, copy, gc):
        group.command(command.__name__.rstrip("_"))(command)
    app.add_typer(group, name="registry")


def publish(
    export: Annotated[Path, typer.Argument(help="Folder of an exported model, e.g. runs/sft/export.")],
    report: Annotated[Path | None, typer.Option(help="Report of `brew360 benchmark run` for this model.")] = None,
    comparison: Annotated[
        Path | None, typer.Option(help="Of `brew360 benchmark compare` with the version that this one replaces.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="YAML file with release.gates. Default: the gates of the training recipe.")
    ] = None,
    publication: Annotated[
        str | None,
        typer.Option(
            help="Any text that identifies this publication, so that the same command makes no second version."
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Name of the data set in the registry, for the lineage. Default: brew360.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File that also receives the version, as JSON.")] = None,
    author: Author = None,
    registry: RegistryUrl = None,
    model: RegistryName = None,
    as_json: AsJson = False,
) -> None:
    """Publish an exported model as the next version, with its prompts, lineage, benchmark and gates.

        brew360 benchmark run runs/sft/export --data data/synthetic --report runs/sft/report.json

        brew360 registry publish runs/sft/export --report runs/sft/report.json

    Publishing does not change what serves: `brew360 registry promote` does. Files that are pickles are refused. A
    script that may be interrupted passes --publication, so that it can run the command again:

        brew360 registry publish runs/sft/export --publication nightly-2026-05-01
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.jobs.publish import publish_export, read_report
        from brew_cluster.jobs.registry import open_registry, recipe_gates
        from brew_eval.report.files import read_comparison
        from brew_platform.console.progress import Phases
        from brew_platform.errors import UserError
        from brew_platform.files import replace_atomically

        if comparison is not None and report is None:
            raise UserError("--comparison adds figures to those of a report. Pass --report FILE too.")
        opened = open_registry(registry, model, empty=True)
        gates = None if recipe is None else recipe_gates(recipe)
        benchmark = None if report is None else read_report(report)
        messages = PlainConsole(stderr=True) if as_json else console
        with Phases(["publish"], console=messages).phase("publish", unit="MB") as progress:
            version = publish_export(
                opened,
                export,
                author=author or user_name(),
                report=benchmark,
                comparison=None if comparison is None else read_comparison(comparison),
                gates=gates,
                publication=publication,
                dataset=dataset,
                on_progress=lambda done, total: progress.update(done / 1e6, total=total / 1e6),
            )
        if out is not None:
            replace_atomically(out, json.dumps(asdict(version), indent=2) + "\n")
        if as_json:
            print_json(asdict(version))
            return
        lines = [f"{opened.model} has version {version.number} now, {len(version.files)} files."]
        if not version.metrics:
            lines.append("It has no figures: pass --report FILE to publish the report of `brew360 benchmark run`.")
        if not version.gates:
            lines.append("It has no gates: name some with --recipe, or a promotion needs --force and a reason.")
        options = "".join(f" --{name} {value}" for name, value in (("registry", registry), ("model", model)) if value)
        for line in [*lines, f"Next: brew360 registry promote {version.number}{options}"]:
            console.print(line)


def list_(registry: RegistryUrl = None, model: RegistryName = None, as_json: AsJson = False) -> None:
    """List all versions, with their aliases and the AUC of each task.

    brew360 registry list
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.registry import show_versions

        opened = _open(registry, model)
        versions, events = [opened.version(number) for number in opened.versions()], opened.events()
        if as_json:
            print_json({"versions": [asdict(version) for version in versions], "aliases": opened.aliases()})
            return
        show_versions(console, versions, events)


def show(
    version: VersionName, registry: RegistryUrl = None, model: RegistryName = None, as_json: AsJson = False
) -> None:
    """Show the signature, lineage, figures, gates and files of a version.

    brew360 registry show production
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.registry import show_version

        opened = _open(registry, model)
        found = opened.version(opened.resolve(version))
        if as_json:
            print_json(asdict(found))
            return
        show_version(console, found, opened.events())


def log(registry: RegistryUrl = None, model: RegistryName = None, as_json: AsJson = False) -> None:
    """List all events: promotions with their gates, blocked ones, rollbacks, canaries, retired versions.

    brew360 registry log
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.registry import show_log

        events = _open(registry, model).events()
        if as_json:
            print_json([asdict(event) for event in events])
            return
        show_log(console, events)


def diff(
    before: VersionName,
    after: VersionName,
    registry: RegistryUrl = None,
    model: RegistryName = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions: files, signature, lineage, and the change of each figure.

    brew360 registry diff production 7
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.registry import show_diff
        from brew_platform.registry.diff import diff_versions

        opened = _open(registry, model)
        found = diff_versions(*(opened.version(opened.resolve(name)) for name in (before, after)))
        if as_json:
            print_json(asdict(found))
            return
        show_diff(console, found)


def verify(
    version: Annotated[str | None, typer.Argument(help="Number or alias. Default: all versions.")] = None,
    registry: RegistryUrl = None,
    model: RegistryName = None,
    as_json: AsJson = False,
) -> None:
    """Hash every stored file again, and list what is missing or damaged; then the exit code is 1.

    brew360 registry verify
    """
    console = PlainConsole()
    with report_errors(console):
        verify_versions(_open(registry, model), version, console, as_json=as_json)


def verify_versions(registry: "Registry", version: str | None, console: PlainConsole, *, as_json: bool) -> None:
    """Hash every stored file of a version, or of all, and print the faults; exit with code 1 if there are any."""
    from brew_cluster.cli.views.registry import show_faults
    from brew_platform.console.progress import Phases

    numbers = registry.versions() if version is None else [registry.resolve(version)]
    messages = PlainConsole(stderr=True) if as_json else console
    with Phases(["verify"], console=messages).phase("verify", total=len(numbers), unit="versions") as progress:
        faults = registry.verify(numbers, on_version=lambda number: progress.update(progress.done + 1))
    if as_json:
        print_json([asdict(fault) for fault in faults])
    elif faults:
        show_faults(console, faults)
    else:
        console.print(f"{registry.model}: {len(numbers)} checked, nothing is missing or damaged.")
    if faults:
        sys.exit(1)


def _open(url: str | None, model: str | None) -> "Registry":
    from brew_cluster.jobs.registry import open_registry

    return open_registry(url, model)

"""`brew360 registry`: approvals and policy, cards, copies between registries, and garbage collection."""

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.duration_option import parse_duration
from brew_cluster.cli.json_option import AsJson, print_json
from brew_cluster.cli.registry_options import Author, Note, RegistryName, RegistryUrl, VersionName, user_name
from brew_cluster.cli.runner import report_errors
from brew_platform.console.plain_console import PlainConsole

__all__ = ["approve", "card", "copy", "gc", "policy"]


def approve(
    version: VersionName,
    note: Note = "",
    author: Author = None,
    registry: RegistryUrl = None,
    model: RegistryName = None,
    as_json: AsJson = False,
) -> None:
    """Approve a version for the aliases whose rules need approvals. See: brew360 registry policy.

        brew360 registry approve 7 --note "privacy review of May"

    An approval counts if its author has the role that the rule names, and did not publish the version.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.registry import print_event
        from brew_cluster.jobs.registry import open_registry

        opened = open_registry(registry, model)
        event = opened.append("approve", opened.resolve(version), author=author or user_name(), note=note)
        print_event(console, event, opened.model, as_json=as_json)
        if as_json:
            return
        found = opened.policy()
        roles = found.roles_of(event.author)
        aliases = [name for name, rule in found.aliases.items() if rule.approvals.keys() & {*roles}]
        if event.author == opened.version(event.version).author:
            console.print(f"It does not count: {event.author} published the version.")
        elif aliases:
            console.print(f"It counts for {', '.join(aliases)}.")
        else:
            console.print(f"It counts for no alias: no rule needs an approval of {event.author}.")


def policy(
    file: Annotated[
        Path | None, typer.Argument(help="YAML file with the new policy. Default: show the policy.")
    ] = None,
    note: Note = "",
    author: Author = None,
    registry: RegistryUrl = None,
    model: RegistryName = None,
    as_json: AsJson = False,
) -> None:
    """Show who can move which alias and whose approvals that needs, or replace this policy.

        brew360 registry policy

        brew360 registry policy policy.yaml --note "ben joins the reviewers"

    The file has roles, and rules by alias:

        roles: {owner: [ana], reviewer: [ben, eve]}

        aliases: {production: {move: [owner], approvals: {reviewer: 1}}}

        change: [owner]

    Every promotion is judged by the policy at that moment; the log keeps each policy. Without one, everyone can do
    everything. Names are those of --author: the credentials of the store decide who can write at all.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.registry import show_event, show_policy
        from brew_cluster.jobs.registry import open_registry
        from brew_platform.config import load_config
        from brew_platform.registry.policy import Policy

        new = None if file is None else load_config(Policy, file)
        opened = open_registry(registry, model)
        if new is not None:
            event = opened.set_policy(new, author=author or user_name(), note=note)
            if not as_json:
                show_event(console, event, opened.model)
        found = opened.policy()
        if as_json:
            print_json(found.document())
            return
        show_policy(console, found)


def card(
    version: Annotated[str | None, typer.Argument(help="Number or alias. Default: all versions; needs --out.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the card of one version; folder for the cards of all versions.")
    ] = None,
    registry: RegistryUrl = None,
    model: RegistryName = None,
) -> None:
    """Print the model card of a version as Markdown: purpose, lineage, data, metrics, gates, approvals and history.

        brew360 registry card production

        brew360 registry card 7 --out card.md

        brew360 registry card --out cards

    A card is generated from what the registry has recorded, so it is always current.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.jobs.registry import open_registry, write_cards
        from brew_platform.errors import UserError
        from brew_platform.files import replace_atomically
        from brew_platform.registry.card import version_card

        if version is None and out is None:
            raise UserError("name a version, or the folder for the cards of all versions: --out FOLDER.")
        opened = open_registry(registry, model)
        if version is None and out is not None:
            for path in write_cards(opened, out):
                console.print(str(path))
            return
        text = version_card(opened.version(opened.resolve(version or "")), opened.events(), model=opened.model)
        if out is None:
            typer.echo(text, nl=False)
            return
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(out, text)
        console.print(str(out))


def copy(
    version: Annotated[str | None, typer.Argument(help="Number or alias. Default: all versions.")] = None,
    to: Annotated[str, typer.Option("--to", help="Store of the other registry: s3://bucket/prefix or a folder.")] = ...,  # type: ignore[assignment]
    to_model: Annotated[str | None, typer.Option(help="Name of the model there. Default: the same name.")] = None,
    registry: RegistryUrl = None,
    model: RegistryName = None,
    as_json: AsJson = False,
) -> None:
    """Copy a version, or all, to another registry: files, signature, lineage, figures and gates.

        brew360 registry copy 7 --to s3://models/production

        brew360 registry copy --to s3://models/production

    A copy gets the next number there; all versions of a registry keep their numbers in an empty one. The same command
    continues a copy that was interrupted: what was copied is not copied again. Aliases, approvals and events stay here,
    because they are decisions about this registry.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.jobs.registry import copy_versions, open_registry
        from brew_platform.console.progress import Phases

        source = open_registry(registry, model)
        target = open_registry(to, to_model or source.model, empty=True)
        numbers = source.versions() if version is None else [source.resolve(version)]
        messages = PlainConsole(stderr=True) if as_json else console
        with Phases(["copy"], console=messages).phase("copy", total=len(numbers), unit="versions") as progress:
            copies = copy_versions(source, target, numbers, on_version=progress.update)
        if as_json:
            print_json({str(number): copied for number, copied in copies.items()})
            return
        for number in numbers:
            if number in copies:
                console.print(f"version {number} is version {copies[number]} of {target.model} in {to}")
            else:
                console.print(f"version {number} was left out: garbage collection has removed its files")


def gc(
    older_than: Annotated[
        timedelta,
        typer.Option(parser=parse_duration, metavar="DURATION", help="Least age, with s, m, h, d or w."),
    ] = "7d",  # type: ignore[assignment]
    dataset: Annotated[str | None, typer.Option(help="Collect this data set of the registry, and no model.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    author: Author = None,
    registry: RegistryUrl = None,
    model: RegistryName = None,
    as_json: AsJson = False,
) -> None:
    """Remove files that nothing needs: those of retired versions, and those of publications that were interrupted.

        brew360 registry gc --dry-run

        brew360 registry gc --older-than 30d

    A version keeps its files until it was retired for that long, no alias points to it, and no service and no running
    job uses it. Files that another version has are kept. Manifests and the log stay, so numbers are never used again.
    The command can run at any time and beside everything else; while a version is published, it removes nothing.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.registry import show_garbage
        from brew_cluster.jobs.data_versions import open_datasets
        from brew_cluster.jobs.registry import open_registry
        from brew_platform.console.progress import Phases
        from brew_platform.registry.garbage import collect_garbage

        opened = open_registry(registry, model, empty=True) if dataset is None else open_datasets(registry, dataset)
        messages = PlainConsole(stderr=True) if as_json else console
        with Phases(["collect"], console=messages).phase("collect", unit="files") as progress:
            found = collect_garbage(
                opened,
                older_than=older_than,
                author=author or user_name(),
                dry_run=dry_run,
                on_progress=lambda done, total: progress.update(done, total=total),
            )
        if as_json:
            print_json(asdict(found))
            return
        show_garbage(console, found, dry_run=dry_run)

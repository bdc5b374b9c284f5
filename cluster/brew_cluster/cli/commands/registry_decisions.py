"""`brew360 registry`: decide which version serves: gates, promotions, rollbacks, canaries, shadows, retirements."""

from typing import Annotated

import typer

from brew_cluster.cli.json_option import AsJson
from brew_cluster.cli.registry_options import Author, Note, RegistryName, RegistryUrl, VersionName, user_name
from brew_cluster.cli.runner import report_errors
from brew_platform.console.plain_console import PlainConsole

__all__ = ["canary", "check", "promote", "retire", "rollback", "shadow"]

Alias = Annotated[str, typer.Option(help="Alias to move.")]
Recipe = Annotated[str | None, typer.Option(help="YAML file with release.gates. Default: the gates of the version.")]
TrafficShare = Annotated[float, typer.Option(min=0, max=1, help="Share of the traffic, 0 to 1; 0 ends it.")]


def check(
    version: VersionName,
    alias: Annotated[str, typer.Option(help="Alias that it would be promoted to.")] = "production",
    recipe: Recipe = None,
    note: Note = "",
    author: Author = None,
    registry: RegistryUrl = None,
    model: RegistryName = None,
    as_json: AsJson = False,
) -> None:
    """Judge the gates of a version without promoting it. The log keeps the outcomes.

    brew360 registry check 7

    The exit code is 1 if a gate or the policy refuses the promotion.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.registry import print_event
        from brew_cluster.jobs.registry import open_registry, recipe_gates

        opened = open_registry(registry, model)
        gates = None if recipe is None else recipe_gates(recipe)
        number = opened.resolve(version)
        event = opened.check(number, alias=alias, gates=gates, author=author or user_name(), note=note)
        print_event(console, event, opened.model, as_json=as_json)


def promote(
    version: VersionName,
    alias: Alias = "production",
    recipe: Recipe = None,
    force: Annotated[bool, typer.Option("--force", help="Promote although a gate fails, or without gates.")] = False,
    reason: Annotated[str, typer.Option(help="Why the promotion is forced; kept in the log.")] = "",
    replaces: Annotated[
        int | None, typer.Option(min=1, help="Only if the alias points to this version now. Default: any.")
    ] = None,
    note: Note = "",
    author: Author = None,
    registry: RegistryUrl = None,
    model: RegistryName = None,
    as_json: AsJson = False,
) -> None:
    """Let a version serve, if its figures pass every gate. A running service follows within seconds.

        brew360 registry promote 7

        brew360 registry promote 7 --recipe release.yaml

        brew360 registry promote 7 --force --reason "the first version; nothing to compare with"

    A gate is a bound on a figure of the benchmark, e.g. release: {gates: [{figure: post_like.auc, at_least: 0.6}]}. A
    figure that was not measured fails its gate. The policy of the registry can also require a role and approvals. The
    outcome is recorded in the log either way. With --replaces, a second promotion at the same time is refused:

        brew360 registry promote 7 --replaces 6
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.registry import print_event
        from brew_cluster.jobs.registry import open_registry, recipe_gates

        opened = open_registry(registry, model)
        event = opened.promote(
            opened.resolve(version),
            alias=alias,
            gates=None if recipe is None else recipe_gates(recipe),
            author=author or user_name(),
            note=note,
            force=force,
            reason=reason,
            replaces=replaces,
        )
        print_event(console, event, opened.model, as_json=as_json)


def rollback(
    alias: Alias = "production",
    note: Note = "",
    author: Author = None,
    registry: RegistryUrl = None,
    model: RegistryName = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias back at the version before, retired ones left out. A running service follows within seconds.

    brew360 registry rollback --note "latency"
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.registry import print_event
        from brew_cluster.jobs.registry import open_registry

        opened = open_registry(registry, model)
        event = opened.rollback(alias, author=author or user_name(), note=note)
        print_event(console, event, opened.model, as_json=as_json)


def canary(
    version: VersionName,
    share: TrafficShare = 0.05,
    note: Note = "",
    author: Author = None,
    registry: RegistryUrl = None,
    model: RegistryName = None,
    as_json: AsJson = False,
) -> None:
    """Let a version answer a share of the requests.

    brew360 registry canary 8 --share 0.1

    brew360 registry canary 8 --share 0
    """
    _append("canary", version, share, note, author, registry, model, as_json)


def shadow(
    version: VersionName,
    share: TrafficShare = 0.1,
    note: Note = "",
    author: Author = None,
    registry: RegistryUrl = None,
    model: RegistryName = None,
    as_json: AsJson = False,
) -> None:
    """Let a version score a share of the requests beside production; its answers are only measured.

    brew360 registry shadow 8 --share 0.2
    """
    _append("shadow", version, share, note, author, registry, model, as_json)


def retire(
    version: VersionName,
    note: Note = "",
    author: Author = None,
    registry: RegistryUrl = None,
    model: RegistryName = None,
    as_json: AsJson = False,
) -> None:
    """Exclude a version from promotions and rollbacks. Where an alias points to it, it serves until the alias moves.

    brew360 registry retire 3 --note "trained on wrong labels"

    It cannot be undone. Later, brew360 registry gc removes its files.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.registry import print_event
        from brew_cluster.jobs.registry import open_registry

        opened = open_registry(registry, model)
        number = opened.resolve(version)
        event = opened.append("retire", number, author=author or user_name(), note=note)
        print_event(console, event, opened.model, as_json=as_json)
        for alias, target in opened.aliases().items():
            if target == number and not as_json:
                console.print(
                    f"{alias} still points to it, so that services run it. Move the alias: brew360 registry rollback "
                    f"--alias {alias}",
                    style="yellow",
                )


def _append(
    kind: str,
    version: str,
    share: float,
    note: str,
    author: str | None,
    url: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.registry import print_event
        from brew_cluster.jobs.registry import open_registry

        opened = open_registry(url, model)
        number = opened.resolve(version)
        event = opened.append(kind, number, author=author or user_name(), note=note, share=share)
        print_event(console, event, opened.model, as_json=as_json)

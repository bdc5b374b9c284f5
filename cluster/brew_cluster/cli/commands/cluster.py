"""`brew360 cluster`: one definition of a cluster, checked, planned, rendered, and started on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from brew_cluster.cli.commands import cluster_capacity
from brew_cluster.cli.json_option import AsJson, print_json
from brew_cluster.cli.runner import report_errors, supervise
from brew_platform.console.plain_console import PlainConsole

__all__ = ["register"]

Definition = Annotated[
    list[str] | None,
    typer.Argument(
        help="A YAML file or a shipped definition (h100_512, laptop); then settings, e.g. topology=separate "
        "groups.train.max_nodes=32. Default: laptop.",
        metavar="[DEFINITION] [KEY=VALUE]...",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Define a cluster: check, plan and render it; plan its capacity.", no_args_is_help=True)
    for command in (show, check, plan, render, up, down):
        group.command()(command)
    cluster_capacity.register(group)
    app.add_typer(group, name="cluster")


def show(name: Annotated[str, typer.Argument(help="h100_512 or laptop.", metavar="DEFINITION")] = "laptop") -> None:
    """Print a definition that ships, as a start for your own.

    brew360 cluster show h100_512 > cluster.yaml
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.definition.load import definition_path

        typer.echo(definition_path(name).read_text(), nl=False)


def check(
    definition: Definition = None,
    crds: Annotated[
        Path | None, typer.Option(help="Folder with KubeRay's CRDs: check against their full schemas.")
    ] = None,
) -> None:
    """Check a definition: rules of the project, schemas of KubeRay and of `ray up`. Prints all problems.

    brew360 cluster check h100_512
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.definition.load import load_definition
        from brew_cluster.definition.programs import load_programs
        from brew_cluster.definition.render import check_definition
        from brew_cluster.definition.schema import COMPACT, crd_schemas
        from brew_platform.errors import ConfigError

        config = load_definition(definition or [])
        problems = check_definition(
            config, load_programs(config), COMPACT | ({} if crds is None else crd_schemas(crds))
        )
        for problem in problems:
            console.print(f"- {problem}")
        if problems:
            raise ConfigError(f"{config.name} has {len(problems)} problems; correct the definition.")
        console.print(f"{config.name} is valid: {len(config.groups)} groups, up to {config.gpus:,} GPUs.")


def plan(definition: Definition = None, as_json: AsJson = False) -> None:
    """Show the groups, where training and serving are placed, and what the loss of a node means.

    brew360 cluster plan h100_512
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.cli.views.cluster import show_plan
        from brew_cluster.definition.load import load_definition
        from brew_cluster.definition.plan import plan_cluster
        from brew_cluster.definition.programs import load_programs

        config = load_definition(definition or [])
        planned = plan_cluster(config, load_programs(config))
        if as_json:
            print_json(planned.as_json())
            return
        show_plan(console, planned)


def render(
    definition: Definition = None,
    to: Annotated[str, typer.Option(help="Target.", metavar="[kuberay|helm|ray-up|local]")] = "kuberay",
    out: Annotated[Path | None, typer.Option(help="Folder of the files. Default: runs/cluster/TARGET.")] = None,
) -> None:
    """Write the files of a definition for KubeRay, Helm, `ray up` or one machine, after the checks.

    brew360 cluster render h100_512 --to kuberay --out deploy

    kubectl apply -f deploy/manifests
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.definition.load import load_definition
        from brew_cluster.definition.programs import load_programs
        from brew_cluster.definition.render import check_definition, write_files
        from brew_cluster.definition.render import render as render_files
        from brew_platform.errors import ConfigError

        config = load_definition(definition or [])
        programs = load_programs(config)
        if problems := check_definition(config, programs):
            raise ConfigError(" ".join(problems))
        folder = out or Path("runs/cluster") / to
        files = render_files(config, programs, to)
        write_files(files, folder)
        for name in files:
            console.print(str(folder / name))


def up(
    definition: Definition = None,
    local: Annotated[
        bool, typer.Option("--local", help="On this machine; clusters of many machines start by their rendered files.")
    ] = False,
    most: Annotated[int, typer.Option("--nodes", min=1, help="Largest number of nodes of a group.")] = 2,
) -> None:
    """Start the nodes of a definition on this machine: a Ray node for each of a few nodes of every group.

        brew360 cluster up --local

    The nodes have the labels of production and no GPUs, and keep running; so does a job gateway, if the definition has
    one. `brew360 cluster down` stops them.
    """
    console = PlainConsole()
    with supervise(console, keep_children=True):
        import os

        from brew_cluster.cli.views.cluster import show_local
        from brew_cluster.definition.load import load_definition
        from brew_cluster.definition.local import local_nodes, start_local
        from brew_platform.console.progress import Phases
        from brew_platform.errors import UserError

        if not local:
            raise UserError(
                "this command starts nodes on this machine only. Add --local, or use `brew360 cluster render` and "
                "`kubectl apply` or `ray up`."
            )
        config = load_definition(definition or [])
        nodes = local_nodes(config, cores=os.cpu_count() or 1, most=most)
        with Phases(["nodes"], console=console).phase("nodes", unit="nodes", total=len(nodes)) as progress:
            cluster = start_local(nodes, progress.update, with_gateway=config.job_gateway is not None)
        show_local(console, nodes, cluster)


def down() -> None:
    """Stop the Rays that `brew360 cluster up --local` and `brew360 serve up` left running on this machine.

    brew360 cluster down
    """
    console = PlainConsole()
    with supervise(console):
        from brew_cluster.ray.local_ray import stop_ray

        folders = stop_ray()
        for folder in folders:
            console.print(f"stopped the Ray in {folder}")
        if not folders:
            console.print("no Ray that brew360 started runs on this machine.")

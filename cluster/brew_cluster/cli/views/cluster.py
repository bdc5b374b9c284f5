"""Prints the plan of a cluster, and how to use a cluster on this machine."""

from collections.abc import Sequence

from brew_cluster.cli.views.table import add_row, make_table, print_table
from brew_cluster.definition.local import LocalCluster, LocalNode
from brew_cluster.definition.plan import ClusterPlan
from brew_platform.console.plain_console import PlainConsole

__all__ = ["show_local", "show_plan"]


def show_plan(console: PlainConsole, plan: ClusterPlan) -> None:
    """Print the groups and the programs of a plan."""
    numbers = ("nodes", "GPUs", "CPUs", "price/h")
    table = make_table("group", "role", *numbers, "loss of a node", right=numbers, title=f"Cluster {plan.name}")
    for group in plan.groups:
        price = None if group.price_per_hour is None else _range(*group.price_per_hour)
        add_row(
            table, group.name, group.role, _range(*group.nodes), _range(*group.gpus), _range(*group.cpus), price,
            group.loss,
        )  # fmt: skip
    total = sum(group.gpus[1] for group in plan.groups)
    print_table(console, table, empty="the definition has no groups.")
    console.print(f"GPUs: up to {total:,} of {plan.gpus:,}")
    programs = make_table("program", "processes", "each", "nodes", "without a node", right=("processes", "each"))
    for program in plan.programs:
        nodes = ", ".join(f"{count} of {name}" for name, count in program.nodes.items())
        add_row(programs, program.program, _range(*program.processes), program.size, nodes, program.missing or None)
    print_table(console, programs, empty="no programs: set training and service to see where they run.")


def show_local(console: PlainConsole, nodes: Sequence[LocalNode], cluster: LocalCluster) -> None:
    """Print how to use a cluster on this machine."""
    roles = ", ".join(f"{node.name} ({node.cpus} CPUs)" for node in nodes)
    jobs = [
        f"Ray Jobs at {cluster.jobs_url}: a gateway for teams is `brew360 jobs serve ray_address={cluster.jobs_url}`"
    ]
    if (gateway := cluster.gateway) is not None:
        jobs = [
            f"Ray Jobs at {cluster.jobs_url}, and a job gateway before it, for `brew360 submit` with these variables:",
            f"export BREW360_JOBS_URL={gateway.url} BREW360_API_KEY=$(cat {gateway.key_path})",
        ]
    for line in (
        f"{len(nodes)} nodes are up: {roles}",
        "Commands use it with these variables:",
        f"export RAY_ADDRESS={cluster.address} RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={cluster.token_path}",
        "export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0",
        *jobs,
        "Stop it with: brew360 cluster down",
    ):
        console.print(line)


def _range(least: float, most: float) -> str:
    return f"{most:,.10g}" if least == most else f"{least:,.10g}-{most:,.10g}"

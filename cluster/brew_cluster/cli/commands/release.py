"""`brew360 release`: from data to a served version in one command, and sweeps of several recipes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brew_cluster.cli.client_options import read_key
from brew_cluster.cli.json_option import AsJson, print_json
from brew_cluster.cli.registry_options import Author, RegistryName, RegistryUrl, VersionName, user_name
from brew_cluster.cli.runner import log_to, report_errors, supervise
from brew_platform.console.plain_console import PlainConsole

if TYPE_CHECKING:
    from brew_cluster.releases.runner import StepRunner

__all__ = ["Address", "Gateway", "Gpus", "StepsFolder", "register", "step_runner"]

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings of sections, e.g. sft.train.stages.0.steps=500", metavar="[KEY=VALUE]..."),
]
StepsFolder = Annotated[
    Path, typer.Option("--steps", help="Folder of the steps, which releases with this folder share.")
]
Address = Annotated[
    str | None,
    typer.Option(help="Run the steps as Ray jobs of the cluster with this dashboard, e.g. http://head:8265."),
]
Gateway = Annotated[
    str | None,
    typer.Option(help="Run the steps as jobs of this gateway, with the API key in BREW360_API_KEY."),
]
Gpus = Annotated[int, typer.Option(min=0, help="GPUs of each training step, for the quota of the gateway.")]
Tracking = Annotated[
    str | None,
    typer.Option("--mlflow", envvar="MLFLOW_TRACKING_URI", help="Address of an MLflow server that receives the runs."),
]
Releases = Annotated[list[Path], typer.Argument(help="Folders of releases or of sweeps.", metavar="FOLDER...")]

DEFAULT_ROOT = Path("runs/releases")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Take a recipe from data to a served version.", no_args_is_help=True)
    for command in (run, status, sweep, table, canary):
        group.command(command.__name__)(command)
    app.add_typer(group, name="release")


def run(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or a shipped recipe: tiny.")],
    overrides: Overrides = None,
    folder: Annotated[Path | None, typer.Option(help="Folder of the release. Default: runs/releases/NAME.")] = None,
    steps: StepsFolder = DEFAULT_ROOT / "steps",
    address: Address = None,
    gateway: Gateway = None,
    gpus: Gpus = 0,
    mlflow: Tracking = None,
    check: Annotated[bool, typer.Option("--check", help="Check the recipe, show the steps, and run nothing.")] = False,
) -> None:
    """Run the steps of a release: data, training, benchmark, publish, gates, canary, promote.

        brew360 release run tiny

        brew360 release run release.yaml sft.train.stages.0.steps=500

        brew360 release run release.yaml --check

    The recipe is checked as a whole before anything starts. A step that has finished is not run again, and the same
    command continues a release that was interrupted or has failed. A changed setting runs the steps again that depend
    on it. A gate or a canary that fails ends the release: the version stays published, and the alias stays where it is.
    """
    console = PlainConsole()
    with supervise(console):
        from brew_cluster.cli.views.release import show_status
        from brew_cluster.releases.config import read_release
        from brew_cluster.releases.plan import plan_release
        from brew_cluster.releases.release import Release
        from brew_cluster.releases.run import changes

        found = read_release(recipe, overrides or [])
        release = Release(
            recipe=found, path=recipe, folder=folder or DEFAULT_ROOT / found.name, steps=plan_release(found, steps)
        )
        if check:
            show_status(console, release.content(), changes(release.steps, release.steps))
            return
        with log_to(release.folder / "logs" / "release.log"):
            release.run(step_runner(address, gateway, gpus, steps), console, mlflow=mlflow)


def status(
    folder: Annotated[Path, typer.Argument(help="Folder of a release.")],
    as_json: AsJson = False,
) -> None:
    """Show the steps of a release: state, time, and which would run again and why.

    brew360 release status runs/releases/tiny
    """
    console = PlainConsole()
    with report_errors(console):
        from dataclasses import asdict

        from brew_cluster.cli.views.release import show_status
        from brew_cluster.releases.config import read_release
        from brew_cluster.releases.plan import plan_release
        from brew_cluster.releases.run import ReleaseFolder, changes, step_state
        from brew_platform.errors import UserError

        release = ReleaseFolder.load(folder)
        problem = ""
        try:
            now = plan_release(read_release(release.recipe, release.overrides), release.steps_folder)
        except UserError as error:
            now, problem = list(release.steps), str(error)
        reruns = changes(release.steps, now)
        if as_json:
            print_json(
                {
                    "name": release.name,
                    "steps": [asdict(step_state(step)) for step in release.steps],
                    "reruns": [asdict(change) for change in reruns],
                    "problem": problem,
                }
            )
            return
        show_status(console, release, reruns)
        if problem:
            console.print(f"The recipe cannot be used any more: {problem}", style="yellow")


def sweep(
    recipe: Annotated[str, typer.Argument(help="YAML file of a sweep, or a shipped one: tiny.")],
    folder: Annotated[Path | None, typer.Option(help="Folder of the sweep. Default: runs/releases/NAME.")] = None,
    steps: StepsFolder = DEFAULT_ROOT / "steps",
    at_once: Annotated[int, typer.Option(min=1, help="Releases that run at the same time.")] = 1,
    address: Address = None,
    gateway: Gateway = None,
    gpus: Gpus = 0,
    mlflow: Tracking = None,
) -> None:
    """Run a recipe with several settings, and fill a table with their figures: table.csv, table.xlsx, table.html.

    brew360 release sweep tiny

    Steps that releases have in common, such as the data, run once. A release that fails does not end the others. The
    same command continues a sweep.
    """
    console = PlainConsole()
    with supervise(console):
        from brew_cluster.releases.sweep import plan_sweep, read_sweep, run_sweep

        config = read_sweep(recipe)
        root = folder or DEFAULT_ROOT / config.name
        releases = plan_sweep(config, root, steps)
        with log_to(root / "logs" / "sweep.log"):
            runner = step_runner(address, gateway, gpus, steps)
            run_sweep(releases, root, runner, console, at_once=at_once, mlflow=mlflow)


def table(
    folders: Releases,
    out: Annotated[Path, typer.Option(help="Folder that receives table.csv, table.xlsx and table.html.")] = Path(),
) -> None:
    """Write the results of releases side by side: one row for each, with settings, steps, figures and version.

    brew360 release table runs/releases/tiny runs/releases/tiny-sweep --out runs/releases
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.releases.results import collect, find_releases, write_tables

        for path in write_tables(collect(find_releases(folders), base=out), out):
            console.print(str(path))


def canary(
    version: VersionName,
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings, e.g. share=0.1 url=http://host:8000", metavar="[KEY=VALUE]...")
    ] = None,
    data: Annotated[Path, typer.Option(help="Data folder; requests are for its members.")] = ...,  # type: ignore[assignment]
    report: Annotated[Path | None, typer.Option(help="File that receives the outcome, as JSON.")] = None,
    author: Author = None,
    registry: RegistryUrl = None,
    model: RegistryName = None,
) -> None:
    """Try a version with a share of a service's traffic, and end the canary again; exit code 1 if it fails.

    brew360 release canary 7 share=0.1 url=http://127.0.0.1:8000 max_p99_ms=300 --data data/synthetic

    Requests are sent with routing keys in the canary's share, so that the version must answer all of them.
    """
    console = PlainConsole()
    with report_errors(console):
        from brew_cluster.jobs.registry import open_registry
        from brew_cluster.releases.canary import run_canary
        from brew_cluster.releases.config import CanarySettings
        from brew_data.data_folder import DataFolder
        from brew_platform.config import load_config
        from brew_platform.errors import BrewError
        from brew_serve.client import RankClient

        config = load_config(CanarySettings, overrides=settings or [])
        opened = open_registry(registry, model)
        number = opened.resolve(version)
        key = read_key(None if config.key_file is None else Path(config.key_file))
        client = None if config.url is None else RankClient(config.url, api_key=key)
        found = run_canary(config, opened, number, DataFolder.open(data), client, author=author or user_name())
        if report is not None:
            found.save(report)
        if found.state == "failed":
            raise BrewError(f"the canary of version {number} failed: {found.reason}")
        timed = "" if found.p99_ms is None else f" p50 {found.p50_ms:.0f} ms, p99 {found.p99_ms:.0f} ms."
        answered = f"{found.requests} requests answered.{timed}" if found.state == "passed" else found.reason
        console.print(f"canary of version {number} {found.state}: {answered}")


def step_runner(address: str | None, gateway: str | None, gpus: int, steps: Path) -> "StepRunner":
    """Return where the steps run; of a cluster, check that it sees the folder of the steps."""
    from brew_cluster.releases.runner import GatewayRunner, LocalRunner, RayJobsRunner, require_shared_folder
    from brew_platform.errors import UserError

    if "://" in str(steps) or str(steps).startswith("s3:"):
        raise UserError(
            f"--steps is {steps}, but steps exchange files through a folder that all nodes mount. Give such a folder; "
            f"the registry and train.mirror_url can be on s3://."
        )
    if address is not None and gateway is not None:
        raise UserError("--address and --gateway exclude each other. Give one of them.")
    if address is None and gateway is None:
        return LocalRunner()
    runner: StepRunner
    if address is not None:
        runner = RayJobsRunner(address)
    else:
        from brew_cluster.gateway.client import JobClient

        assert gateway is not None
        runner = GatewayRunner(JobClient(gateway, api_key=read_key(None)), gpus=gpus)
    require_shared_folder(runner, steps.absolute())
    return runner

"""`brew360 submit`: runs a brew360 command, or an own program, as a job of a shared cluster."""

import shlex
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brew_cluster.cli.client_options import KeyFile
from brew_cluster.cli.duration_option import parse_duration
from brew_cluster.cli.job_options import DEFAULT_URL, JobsUrl, open_job_client
from brew_cluster.cli.json_option import AsJson, print_json
from brew_cluster.cli.runner import report_errors
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import BrewError, UserError

if TYPE_CHECKING:
    from brew_cluster.gateway.spec import JobSpec

__all__ = ["follow_until_end", "make_spec", "register"]

_PATIENCE_SECONDS = 300.0  # that a gateway which is followed may take to restart
_INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(context_settings={"ignore_unknown_options": True})(submit)


def submit(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="A brew360 command as you would run it here.", metavar="COMMAND [RECIPE] [KEY=VALUE]..."),
    ] = None,
    entrypoint: Annotated[str | None, typer.Option(help="A shell command instead of a brew360 command.")] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of all workers together; of a training one per worker.")] = 0,
    cpus: Annotated[int, typer.Option(min=1, help="CPU cores of the job.")] = 1,
    name: Annotated[str | None, typer.Option(help="Name for lists.")] = None,
    node_label: Annotated[
        list[str] | None, typer.Option(help="Ray label of the nodes, KEY=VALUE; may be repeated.", metavar="KEY=VALUE")
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="Attempts after one that failed or was lost.")] = 2,
    max_time: Annotated[
        timedelta | None,
        typer.Option(
            parser=parse_duration,
            metavar="DURATION",
            help="Stop the job after this time of running, such as 12h. Default: never.",
        ),
    ] = None,
    priority: Annotated[int, typer.Option(min=0, max=9, help="Among the jobs of your team; 9 starts first.")] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print the log; Ctrl-C leaves the job running.")
    ] = False,
    url: JobsUrl = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job to the cluster's gateway, and print its id and its place in the queue.

        brew360 submit train cpt run=runs/cpt --gpus 4 --follow

        brew360 submit train my.yaml train.seed=2 --gpus 8 --node-label brew360/role=train

        brew360 submit data build synthetic --out data/synthetic --cpus 16

        brew360 submit --entrypoint "python my_program.py" --gpus 1 --max-time 2h

    The recipe's file is sent along. A job that is preempted or fails runs again: a training continues from its
    checkpoint. Exit code with --follow: 0 if the job succeeded.
    """
    console, messages = PlainConsole(), PlainConsole(stderr=True)
    code = 0
    with report_errors(console):
        resources: dict[str, Any] = {
            "gpus": gpus,
            "cpus": cpus,
            "name": name,
            "node_labels": _labels(node_label or []),
            "retries": retries,
            "max_seconds": None if max_time is None else max(1, round(max_time.total_seconds())),
            "priority": priority,
        }
        spec = make_spec(arguments or [], entrypoint, **resources)
        from brew_cluster.cli.views.jobs import describe_state

        with open_job_client(url, key_file) as client:
            state = client.show(client.submit(spec))
        if follow:
            code = follow_until_end(url, key_file, state.id, messages)
        elif as_json:
            print_json(state.model_dump(mode="json"))
        else:
            console.print(describe_state(state))
            console.print(f"Follow its log with: brew360 jobs logs {state.id} --follow")
    if code:
        sys.exit(code)


def follow_until_end(url: str, key_file: Path | None, job: str, messages: PlainConsole) -> int:
    """Follow a job, also while the gateway restarts; return the exit code. Ctrl-C detaches, and the job continues."""
    from brew_cluster.cli.views.jobs import follow_job

    def wait(failure: BrewError) -> None:
        messages.print(f"waits up to {_PATIENCE_SECONDS:g} s for an answer: {failure}", style="yellow")

    try:
        with open_job_client(url, key_file, patience_seconds=_PATIENCE_SECONDS, on_wait=wait) as client:
            return 0 if follow_job(client, job, messages).state == "succeeded" else 1
    except KeyboardInterrupt:
        messages.print(
            f"detached; {job} continues. Follow it again with `brew360 jobs logs {job} --follow`, or end it with "
            f"`brew360 jobs cancel {job}`."
        )
        return _INTERRUPTED


def make_spec(arguments: list[str], entrypoint: str | None, **resources: Any) -> "JobSpec":
    """Return the job that a command line describes.

    Args:
        arguments: A brew360 command.
        entrypoint: A shell command; then there are no arguments.
        resources: Other fields of JobSpec.

    Raises:
        UserError: There is neither a command nor an entrypoint, or the command, the recipe or a resource is invalid.
    """
    from pydantic import ValidationError

    from brew_cluster.gateway.commands import RECIPE_COMMANDS, parse_command
    from brew_cluster.gateway.spec import JobSpec
    from brew_serve.http.error_responses import describe_validation_error

    if bool(arguments) == (entrypoint is not None):
        raise UserError("give a brew360 command, such as `train cpt run=runs/a`, or --entrypoint, and not both.")
    fields: dict[str, Any] = {"kind": "entrypoint", "entrypoint": entrypoint}
    if arguments:
        command = next((name for name in RECIPE_COMMANDS if arguments[: len(name.split())] == name.split()), None)
        if command is None:
            parse_command(arguments)
            fields["entrypoint"] = shlex.join(["brew360", *arguments])
        else:
            fields = {"kind": "recipe", "command": command, **_recipe_fields(arguments[len(command.split()) :])}
    try:
        return JobSpec(**fields, **resources)
    except ValidationError as error:
        errors = [{**details, "loc": ("body", *details["loc"])} for details in error.errors(include_url=False)]
        raise UserError(describe_validation_error(errors)) from error


def _recipe_fields(arguments: list[str]) -> dict[str, Any]:
    """Split the arguments after a command into the recipe, its settings, and options of the command."""
    plain: list[str] = []
    options: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if not argument.startswith("-"):
            plain.append(argument)
        elif "=" in argument or not left or left[0].startswith("-") or "=" in left[0]:
            options.append(argument)
        else:
            options.append(f"{argument}={left.pop(0)}")
    if not plain or "=" in plain[0]:
        raise UserError("the recipe is missing; give a YAML file or a built-in recipe after the command.")
    path, text = Path(plain[0]), None
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error}); pass a YAML file in UTF-8.") from error
    elif len(path.parts) > 1 or path.suffix in (".yaml", ".yml"):
        raise UserError(f"{path} does not exist; pass the path of a YAML file, or the name of a built-in recipe.")
    return {"recipe": path.name, "recipe_text": text, "overrides": plain[1:], "options": options}


def _labels(texts: list[str]) -> dict[str, str]:
    labels = dict(text.partition("=")[::2] for text in texts)
    if bad := [text for text in texts if "=" not in text]:
        raise UserError(f"--node-label {bad[0]} has no value; give one such as brew360/role=train.")
    return labels

"""Validates a job before it is accepted: the brew360 command, its recipe, and the resources that it uses.

A job of kind recipe runs one of `RECIPE_COMMANDS`. The recipe and its overrides are loaded exactly as the command loads
them, so an unknown recipe or setting is refused when it is submitted and not after hours in the queue.
"""

import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from brew_cluster.gateway.queue import Capacity
from brew_cluster.gateway.spec import JobSpec
from brew_platform.errors import UserError

__all__ = ["RECIPE_COMMANDS", "forbid_environment", "parse_command", "prepare"]


def _load_train(recipe: str, overrides: Sequence[str]) -> Any:
    from brew_cluster.jobs.train_job import load_job

    job = load_job(recipe, overrides)
    job.require_run()
    return job


def _load_dataset(recipe: str, overrides: Sequence[str]) -> Any:
    from brew_cluster.jobs.dataset_config import load_dataset_config

    return load_dataset_config(recipe, overrides)


# Commands whose recipe the gateway loads; each raises a UserError if the recipe or an override is invalid.
RECIPE_COMMANDS: Mapping[str, Callable[[str, Sequence[str]], Any]] = {"train": _load_train, "data build": _load_dataset}


def forbid_environment() -> None:
    """Let no recipe in this process read environment variables (`${oc.env:NAME}`): those of the gateway are secret."""
    from omegaconf import OmegaConf

    OmegaConf.clear_resolver("oc.env")


def prepare(spec: JobSpec, capacity: Capacity) -> JobSpec:
    """Validate a job, and complete its overrides.

    A training has one GPU per worker: `gpus` sets `train.workers` unless an override does, and the other way round. Its
    `node_labels` become those of the workers. On a cluster without GPUs a training uses its workers' CPU cores.

    Args:
        spec: As it was submitted.
        capacity: Of the cluster.

    Returns:
        The job as it runs.

    Raises:
        UserError: The command, the recipe or a setting is unknown or invalid, or the job does not fit on the cluster.
    """
    if spec.kind == "recipe":
        spec = _prepare_recipe(spec, capacity)
    for kind, need, has in (("GPUs", spec.gpus, capacity.gpus), ("CPUs", spec.cpus, capacity.cpus)):
        if need > has:
            raise UserError(
                f"the job needs {need} {kind}, but jobs on this cluster can use {has} together, so it could never "
                f"start; pass a smaller number."
            )
    return spec


def parse_command(arguments: Sequence[str]) -> None:
    """Check the arguments of a brew360 command as the command itself does, without running it.

    Raises:
        UserError: The command or an option is unknown, or an argument is missing.
    """
    from typer._click.exceptions import ClickException
    from typer.main import get_command

    from brew_cluster.cli.main import app

    text = shlex.join(["brew360", *arguments])
    if "--help" in arguments:
        raise UserError(f"`{text}` only prints its help; run it locally.")
    command: Any = get_command(app)
    left = list(arguments)
    while hasattr(command, "commands"):
        known = command.commands
        if not left or left[0] not in known:
            raise UserError(f"`{text}` is not a brew360 command; after {command.name} comes one of {', '.join(known)}.")
        command = known[left.pop(0)]
    try:
        command.make_context(command.name, left)
    except ClickException as error:
        raise UserError(f"`{text}`: {error.format_message().rstrip('.')}. Correct the command.") from error


def _prepare_recipe(spec: JobSpec, capacity: Capacity) -> JobSpec:
    command, recipe = spec.command, spec.recipe
    assert command is not None
    assert recipe is not None
    if command not in RECIPE_COMMANDS:
        raise UserError(
            f"command is {command[:100]!r}; a recipe is run by {' or '.join(RECIPE_COMMANDS)}. Submit other "
            f"commands as an entrypoint."
        )
    for kind, arguments, is_option in (("overrides", spec.overrides, False), ("options", spec.options, True)):
        for argument in arguments:
            if argument.startswith("-") != is_option or (not is_option and "=" not in argument):
                raise UserError(
                    f"{kind} has {argument[:100]!r}; overrides are settings such as train.seed=1, and options are "
                    f"written as --out=data/a."
                )
    if command == "train":
        spec = _with_workers(spec, capacity)
    parse_command([*command.split(), recipe, *spec.overrides, *spec.options])
    _load(spec)
    return spec


def _with_workers(spec: JobSpec, capacity: Capacity) -> JobSpec:
    """Make the number of workers and the resources of a training agree."""
    overrides = list(spec.overrides)
    if spec.gpus and not any(override.startswith("train.workers=") for override in overrides):
        overrides.append(f"train.workers={spec.gpus}")
    if spec.node_labels and not any(override.startswith("train.node_labels") for override in overrides):
        labels = ", ".join(f"{key}: {value}" for key, value in sorted(spec.node_labels.items()))
        overrides.append(f"train.node_labels={{{labels}}}")
    spec = spec.model_copy(update={"overrides": overrides})
    train = _load(spec).train
    if not capacity.gpus:
        return spec.model_copy(update={"cpus": max(spec.cpus, train.workers * train.threads)})
    if spec.gpus and spec.gpus != train.workers:
        raise UserError(
            f"the job asks for {spec.gpus} GPUs, but train.workers is {train.workers}, and each worker uses one GPU; "
            f"pass --gpus {train.workers}, or train.workers={spec.gpus}."
        )
    return spec.model_copy(update={"gpus": train.workers})


def _load(spec: JobSpec) -> Any:
    """Load the recipe as the command does."""
    assert spec.command is not None
    assert spec.recipe is not None
    load = RECIPE_COMMANDS[spec.command]
    with tempfile.TemporaryDirectory(prefix="brew360-recipe-") as folder:
        if spec.recipe_text is None:
            path = Path(folder) / "none" / spec.recipe  # a file of the gateway is not a recipe of a team
            name = spec.recipe if not Path(spec.recipe).exists() else str(path)
        else:
            path = Path(folder) / spec.recipe
            path.write_text(spec.recipe_text, encoding="utf-8")
            name = str(path)
        try:
            return load(name, spec.overrides)
        except UserError as error:
            raise UserError(str(error).replace(str(path), spec.recipe)) from error

"""What must hold before workers start: a mistake costs seconds here, and GPU hours later.

Owns: the checks of settings against bins and against the run folder's last checkpoint. Does not own: the checks within the
settings (brew_train.config) or within the bins (brew_train.inputs.bin_reader).
"""

from collections.abc import Mapping
from pathlib import Path

from brew_platform.errors import UserError
from brew_train.checkpoints.manifest import CHECKPOINTS, peek
from brew_train.config import TrainConfig
from brew_train.inputs.bin_reader import BinReader
from brew_train.objectives.base import make_objective

__all__ = ["require"]


def require(
    config: TrainConfig,
    *,
    bins: Mapping[str, Path],
    evaluation: Mapping[str, Path],
    out: Path,
    vocabulary_size: int,
    context_length: int,
    read_bins: bool,
) -> None:
    """Checks that every stage has bins that fit the model and its objective, and that `out` is of this run.

    Args:
        read_bins: whether every bin is read, too, once and in full: what a restart need not do again.

    Raises:
        UserError: naming what does not fit, and what to do.
        DataError: bins are damaged.
    """
    sizes = {"vocabulary_size": vocabulary_size, "context_length": context_length}
    readers: dict[str, BinReader] = {}
    for stage in config.stages:
        wanted = {"bins": bins} | ({"evaluation bins": evaluation} if stage.evaluate_every else {})
        for what, folders in wanted.items():
            if stage.name not in folders:
                raise UserError(f"no {what} are given for stage {stage.name}: pass a folder for every stage.")
            reader = BinReader(folders[stage.name], **sizes)
            objective = make_objective(stage.objective)
            if reader.kind != objective.bins:
                raise UserError(
                    f"stage {stage.name} has objective={objective.name}, which reads {objective.bins}, but the {what} in "
                    f"{folders[stage.name]} hold {reader.kind}: give the folder of {objective.bins}, or change the objective."
                )
            if read_bins:
                reader.verify()
            if what == "bins":
                readers[stage.name] = reader
    state = peek(out / CHECKPOINTS)
    if state is None:
        return
    if state["rng"] != config.seed:
        raise UserError(
            f"{out} was trained with seed {state['rng']}, not {config.seed}: the order of the bins would change "
            f"half-way; restore train.seed, or choose a new run folder."
        )
    index = state["progress"]["stage"]
    if index >= len(config.stages):
        raise UserError(
            f"{out} was trained for more stages than the {len(config.stages)} given now: restore train.stages, or "
            f"choose a new run folder."
        )
    stage = config.stages[index]
    if stage.name != state["stage"]:
        raise UserError(
            f"{out} is in its stage {state['stage']}, but that place is now taken by {stage.name}: restore "
            f"train.stages, or choose a new run folder."
        )
    trained_on, given = state["data"]["plan_hash"], readers[stage.name].plan_hash
    if trained_on != given and state["progress"]["stage_step"] < stage.steps:
        raise UserError(
            f"this run was trained on plan {trained_on[:12]}, but the bins given are plan {given[:12]}: pass the bins "
            f"that the run started with, or start a new run folder, with model.init_from to keep its weights."
        )

"""Checks of settings, bins and run folder before workers start."""

from brew_platform.errors import UserError
from brew_train.checkpoints.manifest import CHECKPOINTS
from brew_train.checkpoints.state import peek_state
from brew_train.config import TrainConfig
from brew_train.inputs.bin_reader import BinReader
from brew_train.objectives.base import make_objective
from brew_train.run_context import RunContext

__all__ = ["require"]


def require(config: TrainConfig, run: RunContext) -> None:
    """Checks that every stage has bins that fit the model and its objective, and that the run folder is of this run.

    Raises:
        UserError: naming what does not fit, and the fix.
        DataError: bins are damaged.
    """
    readers: dict[str, BinReader] = {}
    for stage in config.stages:
        needed = {"bins": run.bins} | ({"evaluation bins": run.evaluation} if stage.evaluate_every else {})
        for what, folders in needed.items():
            if stage.name not in folders:
                raise UserError(f"no {what} are given for stage {stage.name}: pass a folder for every stage.")
            reader = BinReader(folders[stage.name], run.shape)
            objective = make_objective(stage.objective)
            if reader.kind != objective.bins:
                raise UserError(
                    f"stage {stage.name} has objective={objective.name}, which reads {objective.bins}, but the "
                    f"{what} in {folders[stage.name]} hold {reader.kind}: give the "
                    f"folder of {objective.bins}, or change the objective."
                )
            if run.read_bins:
                reader.verify()
            if what == "bins":
                readers[stage.name] = reader
    state = peek_state(run.out / CHECKPOINTS)
    if state is None:
        return
    if state.seed != config.seed:
        raise UserError(
            f"{run.out} was trained with seed {state.seed}, not {config.seed}: the order of the bins would change "
            f"half-way; restore train.seed, or choose a new run folder."
        )
    index = state.train_state.stage
    if index >= len(config.stages):
        raise UserError(
            f"{run.out} was trained for more stages than the {len(config.stages)} given now: restore train.stages, or "
            f"choose a new run folder."
        )
    stage = config.stages[index]
    if stage.name != state.stage:
        raise UserError(
            f"{run.out} is in its stage {state.stage}, but that place is now taken by {stage.name}: restore "
            f"train.stages, or choose a new run folder."
        )
    trained_on, found = state.position.plan_hash, readers[stage.name].plan_hash
    if trained_on != found and state.train_state.stage_step < stage.steps:
        raise UserError(
            f"this run was trained on plan {trained_on[:12]}, but the bins given are plan {found[:12]}: pass the bins "
            f"that the run started with, or start a new run folder, with model.init_from to keep its weights."
        )

"""Checks of settings, bins and run folder before workers start."""

from collections.abc import Mapping
from pathlib import Path

from brew_platform.errors import UserError
from brew_train.checkpoints.manifest import CHECKPOINTS
from brew_train.checkpoints.state import peek_state
from brew_train.config import TrainConfig
from brew_train.inputs.bin_reader import BinReader
from brew_train.model.base_model import require_base_model
from brew_train.objectives.base import make_objective
from brew_train.run_context import RunContext

__all__ = ["require", "require_continuation"]


def require(config: TrainConfig, run: RunContext) -> None:
    """Checks the model to start from, the bins of every stage, and the checkpoint in the run folder.

    The model must be of a known family, with complete weight files, of which the headers are read. Bins must fit the
    model and the objective of their stage. A checkpoint must have the same seed, stages and bins.

    Args:
        config: settings of the run.
        run: data and run folder. Every bin is read if `run.read_bins` is set.

    Raises:
        UserError: the model or the bins are missing or do not fit, or the checkpoint belongs to another run.
        DataError: weight files or bins are damaged.
    """
    if config.model.init_from is not None:
        require_base_model(Path(config.model.init_from), run.shape)
    plan_hashes: dict[str, str] = {}
    for stage in config.stages:
        required = {"bins": run.bins} | ({"evaluation bins": run.evaluation} if stage.evaluate_every else {})
        for use, folders in required.items():
            if stage.name not in folders:
                raise UserError(f"stage {stage.name} has no {use}: pass a folder for every stage.")
            reader = BinReader(folders[stage.name], run.shape, config.inputs)
            objective = make_objective(stage.objective)
            if reader.kind != objective.bins:
                raise UserError(
                    f"stage {stage.name} has objective={objective.name}, which reads {objective.bins}, but the "
                    f"{use} in {folders[stage.name]} hold {reader.kind}: give the "
                    f"folder of {objective.bins}, or change the objective."
                )
            if run.read_bins:
                reader.verify()
            if use == "bins":
                plan_hashes[stage.name] = reader.plan_hash
    require_continuation(config, run.out, plan_hashes)


def require_continuation(config: TrainConfig, out: Path, plan_hashes: Mapping[str, str]) -> None:
    """Checks that a run can continue from its checkpoint with these settings and bins; without one, it can.

    Args:
        config: settings of the run.
        out: the run folder.
        plan_hashes: of the bins, by stage; a stage without bins is refused by `require`.

    Raises:
        UserError: the checkpoint was trained with another seed, other stages or other bins.
    """
    state = peek_state(out / CHECKPOINTS)
    if state is None:
        return
    if state.seed != config.seed:
        raise UserError(
            f"{out} was trained with seed {state.seed}, not {config.seed}: the order of the bins would change "
            f"during the run; restore train.seed, or choose a new run folder."
        )
    index = state.train_state.stage
    if index >= len(config.stages):
        raise UserError(
            f"{out} is in stage number {index + 1}, but train.stages has only {len(config.stages)}: restore "
            f"train.stages, or choose a new run folder."
        )
    stage = config.stages[index]
    if stage.name != state.stage:
        raise UserError(
            f"{out} is in stage number {index + 1}, named {state.stage}, but train.stages now has {stage.name} "
            f"there: restore train.stages, or choose a new run folder."
        )
    trained_plan, plan = state.position.plan_hash, plan_hashes.get(stage.name)
    if plan is not None and trained_plan != plan:
        raise UserError(
            f"this run was trained on plan {trained_plan[:12]}, but the bins have plan {plan[:12]}: pass the bins "
            f"that the run started with, or start a new run folder, with model.init_from to keep its weights."
        )

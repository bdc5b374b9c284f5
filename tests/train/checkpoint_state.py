"""The state of a checkpoint that tests write without training."""

from brew_train.checkpoints.state import CheckpointState
from brew_train.inputs.bin_order import BinOrderState
from brew_train.train_state import TrainState


def state_of(average_weight: float | None) -> CheckpointState:
    return CheckpointState(
        stage="cpt",
        train_state=TrainState(),
        position=BinOrderState(plan_hash="a" * 64),
        seed=0,
        optimizer=[],
        average_weight=average_weight,
    )

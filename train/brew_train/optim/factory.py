"""Chooses the optimizer of a stage. 360Brew §5 compares the three schedules."""

from torch import nn

from brew_train.config import StageConfig
from brew_train.optim.base import Optimizer
from brew_train.optim.schedule_free import ScheduleFree
from brew_train.optim.scheduled import Scheduled

__all__ = ["make_optimizer"]


def make_optimizer(model: nn.Module, stage: StageConfig) -> Optimizer:
    """Returns the optimizer of `stage.schedule`, at the weights that `model` holds. Arguments as for `Optimizer`."""
    return (ScheduleFree if stage.schedule == "schedule_free" else Scheduled)(model, stage)

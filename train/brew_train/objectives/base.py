"""The interface of a training objective, and the registry that finds objectives by name.

An objective is one class: its config, the bins that it reads, whether it compares with a reference, its loss and its
measures. `objectives` finds the classes in the modules of this package, and those that installed packages name in the
entry point group `brew360.objectives`; docs/how-to/add-an-objective.md shows how to add one.

Every objective divides by counts of the *global* step, so the losses of all workers and micro-steps add up to the loss
of the step for any number of workers.
Legend: T tokens, H hidden size, V vocabulary, D documents, K measures.
"""

import inspect
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar, Protocol

import torch

from brew_platform.errors import ConfigError
from brew_train.inputs.batches import Batch

__all__ = [
    "ANSWERS",
    "GROUP",
    "PAIRS",
    "PROMPTS",
    "BatchLoss",
    "BoundObjective",
    "Objective",
    "Result",
    "StepInputs",
    "make_objective",
    "objectives",
]

GROUP = "brew360.objectives"  # entry point group for objectives of other packages
PROMPTS, ANSWERS, PAIRS = range(3)  # indices into counts_3
Result = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # loss, losses_T, sums_K; see Objective.compute


@dataclass(frozen=True, kw_only=True)
class StepInputs:
    """The inputs of an objective besides the batch.

    Args:
        counts_3: float64 [3], prompt targets, answer targets and pairs of the global step, on the batch's device.
        micro_steps: number of micro-steps in the step.
        reference_D: float32 [D], the reference model's log-probability of the answer of each document; None for an
            objective without a reference.
    """

    counts_3: torch.Tensor
    micro_steps: int = 1
    reference_D: torch.Tensor | None = None


class BatchLoss(Protocol):
    """A loss of one batch. The model's forward pass calls it, because the weight of the head is gathered only there."""

    @property
    def micro_steps(self) -> int:
        """Number of micro-steps in the step; the model adds its router loss to each, divided by this number."""

    def __call__(self, hidden_TH: torch.Tensor, head_VH: torch.Tensor, batch: Batch) -> Result:
        """Returns the same as `Objective.compute`."""


class Objective(ABC):
    """A training objective with its settings.

    Args:
        config: An instance of `Config`.
    """

    name: ClassVar[str]  # value of train.stages[].objective.name
    Config: ClassVar[type]  # keyword-only dataclass; checks its ranges and raises ConfigError
    bins: ClassVar[str] = "documents"  # kind of bins: documents, or pairs (chosen document, then its rejected one)
    needs_reference: ClassVar[bool] = False  # compares with the weights that the stage starts from
    measures: ClassVar[Mapping[str, int]]  # name of each measure -> index in counts_3 of its divisor

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def compute(self, hidden_TH: torch.Tensor, head_VH: torch.Tensor, batch: Batch, step: StepInputs) -> Result:
        """Computes this batch's part of the loss of the step.

        Args:
            hidden_TH: last hidden states, float32 or bfloat16.
            head_VH: weight of the head, same dtype.
            batch: the packed row.
            step: counts of the global step, and the reference.

        Returns:
            loss: float32 scalar, differentiable; the parts of all batches add up to the loss of the step.
            losses_T: float32, cross-entropy of each position, 0 where none is computed; not differentiable.
            sums_K: float64 [1 + K], the loss and the sum of each of `measures`; not differentiable.
        """

    def bind(
        self, counts_3: torch.Tensor, *, micro_steps: int = 1, reference_D: torch.Tensor | None = None
    ) -> "BoundObjective":
        """Returns the loss of one batch of a step. The arguments are the fields of `StepInputs`."""
        assert reference_D is not None or not self.needs_reference, f"{self.name} needs reference log-probabilities"
        return BoundObjective(self, StepInputs(counts_3=counts_3, micro_steps=micro_steps, reference_D=reference_D))

    def means(self, sums_K: torch.Tensor, counts_3: torch.Tensor) -> dict[str, float | None]:
        """Returns the mean of each measure by name.

        Args:
            sums_K: float64 [K], `sums_K[1:]` of `compute`, added over micro-steps and workers.
            counts_3: as in `StepInputs`.

        Returns:
            Means; None where the divisor is 0 or the sum is not finite.
        """
        counts = counts_3.tolist()
        return {
            name: total / counts[index] if counts[index] and math.isfinite(total) else None
            for (name, index), total in zip(self.measures.items(), sums_K.tolist(), strict=True)
        }


@dataclass(frozen=True)
class BoundObjective:
    """An objective with the inputs of one batch; implements `BatchLoss`."""

    objective: Objective
    step: StepInputs = field(repr=False)

    @property
    def micro_steps(self) -> int:
        return self.step.micro_steps

    def __call__(self, hidden_TH: torch.Tensor, head_VH: torch.Tensor, batch: Batch) -> Result:
        return self.objective.compute(hidden_TH, head_VH, batch, self.step)


@cache
def objectives() -> Mapping[str, type[Objective]]:
    """Returns all objectives by name: those of this package, then those of the entry point group `GROUP`.

    Raises:
        ConfigError: an entry point cannot be imported, is not an Objective, or takes a name that exists.
    """
    package = import_module("brew_train.objectives")
    found: dict[str, type[Objective]] = {}
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        for value in vars(import_module(module.name)).values():
            if _is_objective(value) and value.__module__ == module.name:
                found[value.name] = value
    for entry in entry_points(group=GROUP):
        try:
            value = entry.load()
        except Exception as error:  # the code is another package's, so any error is possible
            raise ConfigError(
                f"the objective {entry.name} ({entry.value}) cannot be imported ({error}): repair or uninstall the "
                f"package that declares it."
            ) from error
        if not _is_objective(value) or value.name != entry.name:
            raise ConfigError(
                f"the entry point {entry.name} = {entry.value} in {GROUP} is not an Objective named {entry.name}: "
                f"point it at a subclass of brew_train.objectives.base.Objective with that name."
            )
        if found.get(entry.name, value) is not value:
            raise ConfigError(
                f"two objectives are named {entry.name}: {found[entry.name].__module__} and {value.__module__}; rename "
                f"one, or uninstall its package."
            )
        found[entry.name] = value
    return found


def make_objective(settings: Mapping[str, Any]) -> Objective:
    """Returns the objective of a stage.

    Args:
        settings: `StageConfig.objective`, as `resolve_objective` returns it.
    """
    fields = dict(settings)
    kind = objectives()[fields.pop("name")]
    return kind(kind.Config(**fields))


def _is_objective(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Objective) and not inspect.isabstract(value)

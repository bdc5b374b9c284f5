"""The state in the manifest of a checkpoint, besides the tensors: one schema with a format version."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from brew_platform.errors import UserError
from brew_train.checkpoints.manifest import MANIFEST, Checkpoint, peek_checkpoint
from brew_train.inputs.bin_order import BinOrderState
from brew_train.train_state import TrainState

__all__ = ["FORMAT_VERSION", "CheckpointError", "CheckpointState", "peek_state"]

FORMAT_VERSION = 2  # 1: without a version, counters under the key "progress"


class CheckpointError(UserError):
    """A checkpoint that this release cannot read."""


@dataclass(frozen=True, kw_only=True)
class CheckpointState:
    """Everything that a run restores besides the tensors of `Optimizer.tensors`.

    Random numbers of a step are a function of (seed, step, rank), so no generator state is stored.
    """

    stage: str  # name of the stage
    train_state: TrainState
    position: BinOrderState  # position of the stage in its bins
    seed: int  # TrainConfig.seed
    optimizer: list[dict[str, Any]]  # Optimizer.scalars, one per parameter group
    average_weight: float | None  # w of the average lerp(weights, z, w); None: the weights themselves are exported
    reference_weights: str | None = None  # digest of the weights that the stage started from; None: no reference
    format_version: int = FORMAT_VERSION

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON object for the manifest."""
        return asdict(self)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "CheckpointState":
        """Returns the state of a checkpoint.

        Raises:
            CheckpointError: the checkpoint has another format version, or other fields.
        """
        return cls.from_dict(checkpoint.state, checkpoint.folder / MANIFEST)

    @classmethod
    def from_dict(cls, values: dict[str, Any], path: Path) -> "CheckpointState":
        """Returns the state that `as_dict` wrote.

        Args:
            values: the JSON object.
            path: manifest that it was read from, for error messages.

        Raises:
            CheckpointError: `values` has another format version, or other fields.
        """
        version = values.get("format_version", 1)
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format version {version}, but this release reads version {FORMAT_VERSION}: continue the "
                f"run with the release that wrote it, or choose a new run folder, with model.init_from for its weights."
            )
        try:
            return cls(
                **{
                    **values,
                    "train_state": TrainState(**values["train_state"]),
                    "position": BinOrderState(**values["position"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} has format version {version}, but its fields differ ({error}): it was written by another "
                f"program; choose a new run folder."
            ) from error


def peek_state(root: Path) -> CheckpointState | None:
    """Returns the state of the newest checkpoint in `root`, as `peek_checkpoint` finds it; None if there is none.

    Raises:
        CheckpointError: as `CheckpointState.of`.
    """
    checkpoint = peek_checkpoint(root)
    return CheckpointState.of(checkpoint) if checkpoint else None

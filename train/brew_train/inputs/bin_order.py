"""The order of bins in training: a pure function of (seed, epoch), independent of the number of workers."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from brew_platform.errors import UserError

__all__ = ["BinOrder", "BinOrderState"]


@dataclass(frozen=True, kw_only=True)
class BinOrderState:
    """Position of training in the data; stored in checkpoints."""

    epoch: int = 0
    next_bin: int = 0  # index in the permutation of the epoch, over all workers
    plan_hash: str  # packing plan that the position refers to

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON object for the manifest of a checkpoint."""
        return asdict(self)


class BinOrder:
    """Returns bin ids, each exactly once per epoch, in an order that does not depend on the number of workers.

    Args:
        n_bins: number of bins in the plan.
        plan_hash: hash of the plan.
        seed: seed of the permutations; an order does not change with the version of numpy.
    """

    def __init__(self, *, n_bins: int, plan_hash: str, seed: int) -> None:
        self.n_bins, self.plan_hash, self.seed = n_bins, plan_hash, seed

    def start(self) -> BinOrderState:
        """Returns the state before the first bin."""
        return BinOrderState(plan_hash=self.plan_hash)

    def take(self, state: BinOrderState, count: int) -> tuple[np.ndarray, BinOrderState]:
        """Returns the next bin ids and the state after them.

        Args:
            state: position of the first id.
            count: number of ids.

        Returns:
            ids: int64, shape [count]; after the end of an epoch, they continue with the next epoch.
            state: position after these ids.

        Raises:
            UserError: the state belongs to another plan.
        """
        if state.plan_hash != self.plan_hash:
            raise UserError(
                f"this run was trained on plan {state.plan_hash[:12]}, but the bins have plan "
                f"{self.plan_hash[:12]}: pass the bins that the run started with, or start a new run folder, with "
                f"model.init_from to keep its weights."
            )
        parts: list[np.ndarray] = []
        epoch, position, missing = state.epoch, state.next_bin, count
        while missing:
            part = self._permutation(epoch)[position : position + missing]
            parts.append(part)
            missing -= len(part)
            position += len(part)
            if position == self.n_bins:
                epoch, position = epoch + 1, 0
        return np.concatenate(parts), replace(state, epoch=epoch, next_bin=position)

    def _permutation(self, epoch: int) -> np.ndarray:
        # numpy guarantees the raw stream of a bit generator in all versions, but not the result of permutation().
        if getattr(self, "_cached", (None, None))[0] != epoch:
            raw = np.random.Philox(key=np.array([self.seed, epoch], dtype=np.uint64)).random_raw(self.n_bins)
            self._cached = (epoch, np.argsort(raw, kind="stable"))
        return self._cached[1]

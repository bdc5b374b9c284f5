"""The order in which bins are trained on: a pure function of (seed, epoch), so that any number of workers sees it."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from brew_platform.errors import UserError

__all__ = ["BinOrder", "BinOrderState"]


@dataclass(frozen=True, kw_only=True)
class BinOrderState:
    """Where training stands in the data; checkpointed together with the weights."""

    epoch: int = 0
    next_bin: int = 0  # position in this epoch's permutation, counted over all workers
    plan_hash: str  # the packing plan that these positions refer to

    def as_dict(self) -> dict[str, Any]:
        """For the manifest of a checkpoint."""
        return asdict(self)


class BinOrder:
    """Hands out bin ids, each exactly once per epoch, in an order that does not depend on the number of workers.

    Args:
        n_bins: bins in the plan.
        plan_hash: hash of the plan.
        seed: of the permutation; the same seed gives the same order for ever.
    """

    def __init__(self, *, n_bins: int, plan_hash: str, seed: int) -> None:
        self.n_bins, self.plan_hash, self.seed = n_bins, plan_hash, seed

    def start(self) -> BinOrderState:
        """The state before the first bin."""
        return BinOrderState(plan_hash=self.plan_hash)

    def take(self, state: BinOrderState, count: int) -> tuple[np.ndarray, BinOrderState]:
        """The next `count` bin ids and the state after them.

        Returns:
            ids: int64, shape (count,); what the end of an epoch leaves open is filled from the next one.

        Raises:
            UserError: the state belongs to another plan.
        """
        if state.plan_hash != self.plan_hash:
            raise UserError(
                f"this run was trained on plan {state.plan_hash[:12]}, but the bins given are plan "
                f"{self.plan_hash[:12]}: pass the bins that the run started with, or start a new run folder, with "
                f"model.init_from to keep its weights."
            )
        parts: list[np.ndarray] = []
        epoch, position, open_places = state.epoch, state.next_bin, count
        while open_places:
            part = self._permutation(epoch)[position : position + open_places]
            parts.append(part)
            open_places -= len(part)
            position += len(part)
            if position == self.n_bins:
                epoch, position = epoch + 1, 0
        return np.concatenate(parts), replace(state, epoch=epoch, next_bin=position)

    def _permutation(self, epoch: int) -> np.ndarray:
        # numpy promises that a bit generator's raw stream never changes; it does not promise that of permutation().
        if getattr(self, "_cached", (None, None))[0] != epoch:
            raw = np.random.Philox(key=np.array([self.seed, epoch], dtype=np.uint64)).random_raw(self.n_bins)
            self._cached = (epoch, np.argsort(raw, kind="stable"))
        return self._cached[1]

"""Passes over bins without training: evaluation of the averaged weights, and the reference of a preference stage."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from brew_platform.errors import StorageError, UserError
from brew_platform.files import atomic_file
from brew_train.config import StageConfig
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.batches import Batch, collate
from brew_train.inputs.bin_reader import BinReader
from brew_train.model.model import RankingLM
from brew_train.objectives.base import BatchLoss, make_objective
from brew_train.objectives.reference import reference_log_probabilities
from brew_train.step import ReferenceLogProbs

__all__ = ["compute_reference", "evaluate", "load_reference"]


def evaluate(
    model: RankingLM,
    stage: StageConfig,
    bins: BinReader,
    context: DistributedContext,
    *,
    reference: ReferenceLogProbs | None = None,
) -> dict[str, float | None]:
    """The stage's objective on all of `bins`, with the weights that `model` holds.

    Returns:
        `loss` and the objective's measures, of all bins together, the same on every worker; without the router's loss.
    """
    dealt = list(_dealt(bins, context))
    counts_3 = context.sum_(torch.stack([batch.counts() * float(mine) for _, mine, batch in dealt]).sum(dim=0))
    objective = make_objective(stage.objective)
    total: torch.Tensor | None = None
    for bin_id, mine, batch in dealt:
        reference_D = reference(np.array([bin_id])).to(context.device) if reference else None
        _, _, sums_K = _forward(model, batch, objective.bind(counts_3, reference_D=reference_D), context)
        sums_K = sums_K * float(mine)
        total = sums_K if total is None else total + sums_K
    assert total is not None  # a reader has at least one bin
    loss, *measured = context.sum_(total).tolist()
    return {"loss": loss, **objective.means(torch.tensor(measured, dtype=torch.float64), counts_3)}


def compute_reference(model: RankingLM, bins: BinReader, path: Path, context: DistributedContext) -> None:
    """Writes the log-probability that `model` gives each document's answer to `path`, unless that is there already.

    One pass at the stage's start stands for a second model in memory: the reference never changes in a stage.

    Raises:
        StorageError: it could not be written.
    """
    if context.on_first(path.is_file):
        return
    found: dict[int, np.ndarray] = {}
    for bin_id, mine, batch in _dealt(bins, context):
        _, _, logp_D = _forward(model, batch, reference_log_probabilities, context)
        if mine:
            found[bin_id] = logp_D[1:].to("cpu", torch.float32).numpy()
    every = {bin_id: logp_D for part in context.gather(found) for bin_id, logp_D in part.items()}
    context.on_first(lambda: _write(path, every))


def load_reference(path: Path, bins: BinReader) -> ReferenceLogProbs:
    """What `compute_reference` wrote, as a function of bin ids.

    Raises:
        UserError: the file is missing or damaged; a stage that has begun cannot make it again.
    """
    try:
        with np.load(path) as held:
            logp, ends = held["log_probabilities"], held["ends"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the reference log-probabilities {path} cannot be read ({error}): the weights that they came from are "
            f"trained on by now; restore the file from a backup, or start the stage in a new run folder."
        ) from error
    if len(ends) != bins.n_bins + 1:
        raise UserError(f"{path} is of {len(ends) - 1} bins, but {bins.n_bins} are given: restore the stage's bins.")

    def reference(bin_ids: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([logp[ends[i] : ends[i + 1]] for i in bin_ids]))

    return reference


def _write(path: Path, every: dict[int, np.ndarray]) -> None:
    parts = [every[bin_id] for bin_id in sorted(every)]
    ends = np.cumsum([0, *map(len, parts)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, log_probabilities=np.concatenate(parts), ends=ends)
    except OSError as error:
        raise StorageError(
            f"the reference log-probabilities could not be written to {path} ({error}): free some space or repair the "
            f"disk, and run again."
        ) from error


def _dealt(bins: BinReader, context: DistributedContext) -> Iterator[tuple[int, bool, Batch]]:
    """(bin id, whether it counts, batch): bins dealt out to the workers, equally many to each.

    FSDP2 needs every worker in every forward: who has no bin left reads bin 0 again, and it does not count.
    """
    for start in range(0, bins.n_bins, context.size):
        bin_id = start + context.rank
        mine = bin_id < bins.n_bins
        bin_id = bin_id if mine else 0
        yield bin_id, mine, collate([bins[bin_id]]).to(context.device)


def _forward(
    model: RankingLM, batch: Batch, loss_of_batch: BatchLoss, context: DistributedContext
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    model.eval()
    try:
        with torch.no_grad():
            result: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = model(batch, loss_of_batch, context)
            return result
    finally:
        model.train()

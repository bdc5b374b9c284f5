"""Passes over bins without training: evaluation of the averaged weights, and the reference of a preference stage."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch.distributed.tensor import DTensor

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

__all__ = ["ReferenceIdentity", "compute_reference", "digest_weights", "evaluate", "load_reference"]


def evaluate(
    model: RankingLM,
    stage: StageConfig,
    bins: BinReader,
    context: DistributedContext,
    *,
    reference: ReferenceLogProbs | None = None,
) -> dict[str, float | None]:
    """Computes loss and measures of the stage's objective on all of `bins`, with the current weights of `model`.

    Args:
        model: whole or sharded.
        stage: its objective is evaluated.
        bins: the evaluation bins.
        context: the workers, which share the bins; every worker calls this function.
        reference: log-probabilities of the reference model, for an objective that needs them.

    Returns:
        `loss` without the router's loss, and the mean of each measure, over all bins; the same on every worker.
    """
    shared = list(_share_bins(bins, context))
    counts_3 = context.sum_(
        torch.stack([batch.counts() * float(is_counted) for _, is_counted, batch in shared]).sum(dim=0)
    )
    objective = make_objective(stage.objective)
    total: torch.Tensor | None = None
    for bin_id, is_counted, batch in shared:
        reference_D = reference(np.array([bin_id])).to(context.device) if reference else None
        _, _, sums_K = _forward(model, batch, objective.bind(counts_3, reference_D=reference_D), context)
        sums_K = sums_K * float(is_counted)
        total = sums_K if total is None else total + sums_K
    assert total is not None  # a reader has at least one bin
    loss, *sums = context.sum_(total).tolist()
    return {"loss": loss, **objective.means(torch.tensor(sums, dtype=torch.float64), counts_3)}


@dataclass(frozen=True, kw_only=True)
class ReferenceIdentity:
    """The inputs of reference log-probabilities; their file carries it, and is valid for no others."""

    objective: str  # name of the objective
    weights: str  # `digest_weights` of the reference model
    plan_hash: str  # of the bins
    format_version: int = 1


def digest_weights(model: RankingLM, context: DistributedContext, *, precision: str) -> str:
    """Returns a SHA-256 of the weights, and of the precision that the model computes in; the same on every worker.

    Each worker hashes its own shards, so the digest also depends on how the model is sharded: after a restart with
    another number of workers the reference is computed again.

    Args:
        model: whole or sharded.
        context: the workers; every worker calls this function.
        precision: name of the dtype.
    """
    digest = hashlib.sha256(precision.encode())
    for name, parameter in model.named_parameters():
        shard = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        digest.update(f"{name} {tuple(parameter.shape)} {tuple(shard.shape)}".encode())
        digest.update(shard.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashlib.sha256("".join(context.gather(digest.hexdigest())).encode()).hexdigest()


def compute_reference(
    model: RankingLM, bins: BinReader, path: Path, identity: ReferenceIdentity, context: DistributedContext
) -> None:
    """Writes the log-probability of each document's answer under the current weights of `model` to `path`.

    The reference does not change within a stage, so this pass at its start replaces a second model in memory. If the
    file has the same identity (a restart before the first checkpoint of the stage), it is kept; otherwise replaced.

    Args:
        model: the reference model, whole or sharded.
        bins: the bins of the stage.
        path: an npz file, visible to all workers under the same path.
        identity: of `model` and `bins`.
        context: the workers, which share the bins; every worker calls this function.

    Raises:
        StorageError: the file could not be written.
    """
    if context.on_first(lambda: _is_valid(path, bins, identity)):
        return
    computed: dict[int, np.ndarray] = {}
    for bin_id, is_counted, batch in _share_bins(bins, context):
        _, _, logp_D = _forward(model, batch, reference_log_probabilities, context)
        if is_counted:
            computed[bin_id] = logp_D[1:].to("cpu", torch.float32).numpy()
    by_bin = {bin_id: logp_D for part in context.gather(computed) for bin_id, logp_D in part.items()}
    context.on_first(lambda: _write(path, by_bin, identity))


def load_reference(path: Path, bins: BinReader, identity: ReferenceIdentity) -> ReferenceLogProbs:
    """Returns the log-probabilities that `compute_reference` wrote, as a function of bin ids.

    Args:
        path: the npz file.
        bins: the bins of the stage.
        identity: the identity that the file must have.

    Raises:
        UserError: the file is missing, damaged, or has another identity.
    """
    remedy = "restore the file or these settings from a backup, or start the stage in a new run folder."
    try:
        with np.load(path) as arrays:
            logp, ends = arrays["log_probabilities"], arrays["ends"]
            found = ReferenceIdentity(**json.loads(str(arrays["identity"])))
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise UserError(
            f"the reference log-probabilities {path} cannot be read ({error}), and cannot be computed again, because "
            f"training has changed the weights: {remedy}"
        ) from error
    for name, value in vars(identity).items():
        if getattr(found, name) != value:
            raise UserError(
                f"the reference log-probabilities {path} belong to another run: their {name} is "
                f"{str(getattr(found, name))[:12]}, but that of the stage is {str(value)[:12]}, so every loss would be "
                f"wrong: {remedy}"
            )
    if len(ends) != bins.n_bins + 1:
        raise UserError(f"{path} has log-probabilities of {len(ends) - 1} bins instead of {bins.n_bins}: {remedy}")

    def reference(bin_ids: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([logp[ends[i] : ends[i + 1]] for i in bin_ids]))

    return reference


def _is_valid(path: Path, bins: BinReader, identity: ReferenceIdentity) -> bool:
    try:
        load_reference(path, bins, identity)
    except UserError:
        return False
    return True


def _write(path: Path, by_bin: dict[int, np.ndarray], identity: ReferenceIdentity) -> None:
    parts = [by_bin[bin_id] for bin_id in sorted(by_bin)]
    ends = np.cumsum([0, *map(len, parts)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary, temporary.open("wb") as handle:
            np.savez(
                handle,
                log_probabilities=np.concatenate(parts),
                ends=ends,
                identity=np.array(json.dumps(asdict(identity))),
            )
    except OSError as error:
        raise StorageError(
            f"the reference log-probabilities could not be written to {path} ({error}): free some space or repair the "
            f"disk, and run again."
        ) from error


def _share_bins(bins: BinReader, context: DistributedContext) -> Iterator[tuple[int, bool, Batch]]:
    """Yields this worker's share of the bins: (bin id, whether it is counted, batch).

    Every worker gets the same number of bins, because FSDP2 needs all workers in every forward pass. A worker without a
    bin reads bin 0 again, which does not count.
    """
    for start in range(0, bins.n_bins, context.size):
        bin_id = start + context.rank
        is_counted = bin_id < bins.n_bins
        bin_id = bin_id if is_counted else 0
        yield bin_id, is_counted, collate([bins[bin_id]]).to(context.device)


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

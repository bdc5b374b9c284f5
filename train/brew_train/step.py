"""One optimizer step: forward and backward passes, clipping, update and measures.

Imports neither Ray nor pyarrow.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from brew_platform.errors import BrewError, UserError
from brew_train.config import ShardingConfig, StageConfig
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.batches import Batch, Bin, collate
from brew_train.model.model import RankingLM
from brew_train.model.sharding import micro_step
from brew_train.objectives.base import make_objective
from brew_train.optim.base import Optimizer

__all__ = ["Bins", "ReferenceLogProbs", "StepResult", "share", "take_step"]

ReferenceLogProbs = Callable[[np.ndarray], torch.Tensor]
"""Returns the reference log-probability of each document, float32 [D], of the bins with these ids, int64 [B]."""


class Bins(Protocol):
    """Bins by their ids."""

    def __getitem__(self, bin_id: int) -> Bin: ...


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Result of one step over all workers; the same on each, except `data_wait_seconds`."""

    loss: float | None  # loss of the objective in nats; None if it is not finite
    measures: dict[str, float | None]  # mean of each measure of the objective; None without targets
    grad_norm: float | None  # before clipping; None if it is not finite
    tokens: int  # there is no padding
    document_length: float  # tokens in a document, mean over tokens; the cost of attention depends on it
    data_wait_seconds: float  # time until every worker had its bins and had collated them, as this worker measured it
    skipped: bool = False  # whether the weights were not updated
    bad_bins: list[int] = field(default_factory=list)  # of a skipped step: bins whose loss is not finite, or all bins


def share(bin_ids: np.ndarray, context: DistributedContext, micro_steps: int) -> list[np.ndarray]:
    """Returns this worker's share of the bins of a step, one array per micro-step; sizes differ by at most one bin."""
    return np.array_split(np.array_split(bin_ids, context.size)[context.rank], micro_steps)


def take_step(
    model: RankingLM,
    optimizer: Optimizer,
    stage: StageConfig,
    bins: Bins,
    bin_ids: np.ndarray,
    context: DistributedContext,
    *,
    sharding: ShardingConfig,
    reference: ReferenceLogProbs | None = None,
    mean_loss: float | None = None,
) -> StepResult:
    """Updates the weights once. Every worker calls this function with the same arguments.

    Args:
        model: in training mode, whole or sharded.
        optimizer: the optimizer of the model's parameters.
        stage: settings of the stage.
        bins: the bins of the stage.
        bin_ids: int64 [B], the bins of this step over all workers.
        context: the workers.
        sharding: how the model is sharded, which determines the communication of micro-steps.
        reference: log-probabilities of the reference model, for an objective that needs them (DPO).
        mean_loss: running mean of the stage's losses, to detect an exploding loss; None: no loss is known yet.

    Returns:
        The result of the step, which is skipped after a bad loss or gradient if `stage.on_bad_step` is skip.

    Raises:
        UserError: the loss or the gradient is not finite, or the loss explodes, and `stage.on_bad_step` is stop;
            the weights are unchanged.
        DataError: a bin of any worker is damaged; raised on all workers.
    """
    started = time.perf_counter()
    bin_ids_by_micro_step = share(bin_ids, context, stage.micro_steps)
    batches, counts_3 = _read(bin_ids_by_micro_step, bins, context)
    data_wait_seconds = time.perf_counter() - started

    objective = make_objective(stage.objective)
    sums = torch.zeros(0, dtype=torch.float64, device=context.device)
    finite = []  # bool [T] per micro-step: whether the loss of each position is finite
    for micro_step_ids, batch in zip(bin_ids_by_micro_step, batches, strict=True):
        loss_of_batch = objective.bind(
            counts_3,
            micro_steps=stage.micro_steps,
            reference_D=reference(micro_step_ids).to(context.device) if reference else None,
        )
        micro_step(model, last=batch is batches[-1], sharding=sharding)
        loss, losses_T, sums_K = model(batch, loss_of_batch, context)
        (loss * context.size).backward()  # FSDP2 averages gradients over workers; the step's loss is their sum
        sums = sums_K if not len(sums) else sums + sums_K
        finite.append(losses_T.isfinite())

    gradients = optimizer.gradients()
    squares = torch.stack(torch._foreach_norm(gradients)).double().square().sum()
    squared_lengths = torch.stack([batch.squared_lengths() for batch in batches]).sum()
    tokens = torch.full_like(squared_lengths, sum(batch.tokens for batch in batches))
    # The shards add up to the whole gradient; with several replicas each shard is counted once per replica.
    totals = context.sum_(torch.stack([squares / context.replicas, tokens, squared_lengths, *sums]))
    squared_norm, all_tokens, all_squared_lengths, total_loss, *measure_sums = totals.tolist()
    norm = math.sqrt(squared_norm)
    means = objective.means(torch.tensor(measure_sums, dtype=torch.float64), counts_3)
    fault = _find_fault(total_loss, norm, mean_loss, stage)
    bad_bins: list[int] = []
    if fault:
        optimizer.drop_gradients()
        bad_bins = _find_bad_bins(bin_ids_by_micro_step, bins, finite, context) or sorted(bin_ids.tolist())
        if stage.on_bad_step == "stop":
            raise UserError(
                f"{fault} in bins {bad_bins}: lower learning_rate or max_grad_norm, inspect those bins, or set "
                f"on_bad_step=skip to skip such steps."
            )
    else:
        if norm > stage.max_grad_norm:
            torch._foreach_mul_(gradients, stage.max_grad_norm / norm)
        optimizer.step()
    return StepResult(
        loss=total_loss if math.isfinite(total_loss) else None,
        measures=means,
        grad_norm=norm if math.isfinite(norm) else None,
        tokens=int(all_tokens),
        document_length=all_squared_lengths / all_tokens,
        data_wait_seconds=data_wait_seconds,
        skipped=bool(fault),
        bad_bins=bad_bins,
    )


def _read(
    bin_ids_by_micro_step: list[np.ndarray], bins: Bins, context: DistributedContext
) -> tuple[list[Batch], torch.Tensor]:
    """Returns this worker's batches, and the counts of the global step; raises an error of any worker on all."""
    batches: list[Batch] = []
    failure: BrewError | None = None
    try:
        batches = [
            collate([bins[int(bin_id)] for bin_id in bin_ids]).to(context.device) for bin_ids in bin_ids_by_micro_step
        ]
    except BrewError as error:
        failure = error
    counts_4 = torch.zeros(4, dtype=torch.float64, device=context.device)
    counts_4[3] = float(failure is not None)
    for batch in batches:
        counts_4[:3] += batch.counts()
    context.sum_(counts_4)
    if counts_4[3] > 0:
        raise next(error for error in context.gather(failure) if error is not None)
    return batches, counts_4[:3]


def _find_fault(loss: float, norm: float, mean_loss: float | None, stage: StageConfig) -> str:
    """Describes the fault of a step, the same on every worker; empty for a good step."""
    if not math.isfinite(loss) or not math.isfinite(norm):
        return f"the loss became {loss} and the gradient's norm {norm}"
    if mean_loss is not None and loss > mean_loss + stage.max_loss_rise:
        return f"the loss exploded to {loss:.4g} from a mean of {mean_loss:.4g} (max_loss_rise={stage.max_loss_rise:g})"
    return ""


def _find_bad_bins(
    bin_ids_by_micro_step: list[np.ndarray], bins: Bins, finite: list[torch.Tensor], context: DistributedContext
) -> list[int]:
    """Returns the ids of all workers' bins that have a position whose loss is not finite."""
    bad_bins: list[int] = []
    for bin_ids, finite_T in zip(bin_ids_by_micro_step, finite, strict=True):
        lengths = [len(bins[int(bin_id)].input_ids) for bin_id in bin_ids]
        by_bin = torch.split(finite_T.cpu(), lengths)
        bad_bins += [int(bin_id) for bin_id, ok in zip(bin_ids, by_bin, strict=True) if not bool(ok.all())]
    return sorted(bin_id for worker_bins in context.gather(bad_bins) for bin_id in worker_bins)

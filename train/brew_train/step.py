"""One optimizer step: forward, backward, clipping, update and measures.

Needs neither Ray nor pyarrow.
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

ReferenceLogProbs = Callable[
    [np.ndarray], torch.Tensor
]  # bin ids -> float32 reference log-probability of each document


class Bins(Protocol):
    """Random access to bins by their ids."""

    def __getitem__(self, bin_id: int) -> Bin: ...


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step came to, of all workers together and the same on each."""

    loss: float | None  # the objective, in nats; None where it is not finite
    measures: dict[str, float | None]  # means by name, as the objective defines them; None without such targets
    grad_norm: float | None  # before clipping; None where it is not finite
    tokens: int  # real ones; there is no padding
    document_length: float  # tokens in a document, mean over tokens; attention's cost depends on it
    data_wait_seconds: float  # this worker's, reading and collating
    skipped: bool = False  # the weights were left as they were
    bad_bins: list[int] = field(default_factory=list)  # of a skipped step: those with a loss that is not finite, or all


def share(bin_ids: np.ndarray, context: DistributedContext, micro_steps: int) -> list[np.ndarray]:
    """This worker's part of a step's bins, for each micro-step; sizes differ by one bin at most."""
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
    """Updates the weights once.

    Args:
        bins: where the bins are read from.
        bin_ids: int64, all workers' bins of this step.
        sharding: how the model is sharded; it says what micro-steps may keep gathered.
        reference: of the objectives that compare with one (DPO).
        mean_loss: running mean of the stage's losses, the reference for an exploding loss; None: not known yet.

    Raises:
        UserError: the loss or the gradient is not finite, or the loss explodes, and `stage.on_bad_step` is stop;
            the weights are unchanged.
        DataError: a bin is damaged; on all workers, whichever read it.
    """
    started = time.perf_counter()
    parts = share(bin_ids, context, stage.micro_steps)
    batches, counts_3 = _read(parts, bins, context)
    waited = time.perf_counter() - started

    objective = make_objective(stage.objective)
    sums = torch.zeros(0, dtype=torch.float64, device=context.device)
    finite = []  # per micro-step, whether each position's loss is a number
    for part, batch in zip(parts, batches, strict=True):
        loss_of_batch = objective.bind(
            counts_3,
            micro_steps=stage.micro_steps,
            reference_D=reference(part).to(context.device) if reference else None,
        )
        micro_step(model, last=batch is batches[-1], sharding=sharding)
        loss, losses_T, sums_K = model(batch, loss_of_batch, context)
        (loss * context.size).backward()  # FSDP2 averages gradients over workers; the step's loss is their sum
        sums = sums_K if not len(sums) else sums + sums_K
        finite.append(losses_T.isfinite())

    gradients = optimizer.gradients()
    squares = torch.stack(torch._foreach_norm(gradients)).double().square().sum()
    lengths_D = torch.cat([batch.cu_seqlens.diff() for batch in batches]).double()
    # Shards add up to the whole gradient; with several replicas each part is counted once per replica.
    totals = context.sum_(torch.stack([squares / context.replicas, lengths_D.sum(), lengths_D.square().sum(), *sums]))
    squared_norm, tokens, squared_lengths, total_loss, *measured = totals.tolist()
    norm = math.sqrt(squared_norm)
    means = objective.means(torch.tensor(measured, dtype=torch.float64), counts_3)
    complaint = _complaint(total_loss, norm, mean_loss, stage)
    bad: list[int] = []
    if complaint:
        optimizer.drop_gradients()
        bad = _bad_bins(parts, bins, finite, context) or sorted(bin_ids.tolist())
        if stage.on_bad_step == "stop":
            raise UserError(
                f"{complaint} in bins {bad}: lower learning_rate or max_grad_norm, look at those bins, or set "
                f"on_bad_step=skip to leave such steps out; the last checkpoint is unharmed."
            )
    else:
        if norm > stage.max_grad_norm:
            torch._foreach_mul_(gradients, stage.max_grad_norm / norm)
        optimizer.step()
    return StepResult(
        loss=total_loss if math.isfinite(total_loss) else None,
        measures=means,
        grad_norm=norm if math.isfinite(norm) else None,
        tokens=int(tokens),
        document_length=squared_lengths / tokens,
        data_wait_seconds=waited,
        skipped=bool(complaint),
        bad_bins=bad,
    )


def _read(parts: list[np.ndarray], bins: Bins, context: DistributedContext) -> tuple[list[Batch], torch.Tensor]:
    """This worker's batches, and the global step's counts; an error of one worker is raised on all."""
    batches: list[Batch] = []
    failure: BrewError | None = None
    try:
        batches = [collate([bins[int(bin_id)] for bin_id in part]).to(context.device) for part in parts]
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


def _complaint(loss: float, norm: float, mean_loss: float | None, stage: StageConfig) -> str:
    """What is wrong with a step; empty if nothing is. The same on every worker."""
    if not math.isfinite(loss) or not math.isfinite(norm):
        return f"the loss became {loss} and the gradient's norm {norm}"
    if mean_loss is not None and loss > mean_loss + stage.max_loss_rise:
        return f"the loss exploded to {loss:.4g} from a mean of {mean_loss:.4g} (max_loss_rise={stage.max_loss_rise:g})"
    return ""


def _bad_bins(
    parts: list[np.ndarray], bins: Bins, finite: list[torch.Tensor], context: DistributedContext
) -> list[int]:
    """Ids of the bins, of all workers, that hold a position whose loss is not finite."""
    mine: list[int] = []
    for part, ok_T in zip(parts, finite, strict=True):
        lengths = [len(bins[int(bin_id)].input_ids) for bin_id in part]
        mine += [
            int(bin_id) for bin_id, ok in zip(part, torch.split(ok_T.cpu(), lengths), strict=True) if not bool(ok.all())
        ]
    return sorted(bin_id for theirs in context.gather(mine) for bin_id in theirs)

"""One optimizer step over one step's bins: forward, backward, clipping, update, and what was measured.

Owns: the arithmetic of a step on any number of workers. Does not own: which bins, or when to commit (brew_train.loop).
"""

import math
from typing import Any

import numpy as np
import torch

from brew_platform.errors import UserError
from brew_train.batches import BinReader, collate
from brew_train.config import StageConfig
from brew_train.losses import ANSWER, NO_TARGET, PROMPT, token_weights
from brew_train.model import RankingLM
from brew_train.optimizer import ScheduleFree
from brew_train.world import World

__all__ = ["take_step"]


def take_step(
    model: RankingLM,
    optimizer: ScheduleFree,
    stage: StageConfig,
    reader: BinReader,
    bin_ids: np.ndarray,
    world: World,
) -> dict[str, Any]:
    """Updates the weights once.

    Args:
        bin_ids: int64, all workers' bins of this step; each worker trains on its equal, consecutive share.

    Returns:
        loss, prompt_loss, answer_loss (means in nats per target token; None where the step has no such target),
        grad_norm (before clipping), tokens (real ones): of the whole step, the same on every worker.

    Raises:
        UserError: the loss or the gradient is no finite number; the weights are then unchanged.
    """
    share = len(bin_ids) // world.size
    mine = bin_ids[world.rank * share : (world.rank + 1) * share]
    batch = collate([reader[int(bin_id)] for bin_id in mine]).to(world.device)
    counts = world.sum_(batch.counts())
    weights_T = token_weights(batch.roles_T, batch.targets_T, counts, stage.prompt_weight)

    loss, losses_T = model(batch, weights_T, world)
    (loss * world.size).backward()  # FSDP2 averages gradients over workers; the step's loss is their sum

    gradients = optimizer.gradients()  # every parameter is sharded, none replicated: squares add up over the workers
    squares = torch.stack(torch._foreach_norm(gradients)).double().square().sum()
    totals = world.sum_(torch.stack([squares, *_sums(batch.targets_T, batch.roles_T, losses_T, weights_T)]))
    squared_norm, weighted, prompt_sum, answer_sum, tokens = totals.tolist()
    prompts, answers = counts.tolist()
    norm = math.sqrt(squared_norm)
    if not math.isfinite(weighted) or not math.isfinite(norm):
        raise UserError(
            f"the loss became {weighted} and the gradient's norm {norm} in bins {sorted(bin_ids.tolist())}: lower "
            f"learning_rate or max_grad_norm, or look at those bins; the last checkpoint is unharmed."
        )
    if norm > stage.max_grad_norm:
        torch._foreach_mul_(gradients, stage.max_grad_norm / norm)
    optimizer.step()
    return {
        "loss": weighted,
        "prompt_loss": prompt_sum / prompts if prompts else None,
        "answer_loss": answer_sum / answers if answers else None,
        "grad_norm": norm,
        "tokens": int(tokens),
    }


def _sums(
    targets_T: torch.Tensor, roles_T: torch.Tensor, losses_T: torch.Tensor, weights_T: torch.Tensor
) -> list[torch.Tensor]:
    """This worker's weighted loss, prompt loss, answer loss and tokens, float64 scalars."""
    losses_T = losses_T.double()
    valid_T = targets_T != NO_TARGET
    by_role = [losses_T[valid_T & (roles_T == role)].sum() for role in (PROMPT, ANSWER)]
    tokens = torch.tensor(float(len(targets_T)), dtype=torch.float64, device=losses_T.device)
    return [(losses_T * weights_T).sum(), *by_role, tokens]

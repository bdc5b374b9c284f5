"""Contender: PyTorch's DistributedDataParallel around the product's own model, step, optimizer and bins.

Only the sharding differs from the product's run, so the ratio shows the cost of FSDP2. This contender does slightly
less work, because it has no training loop, metrics file or ledger.
"""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from bench.train.job import Stopwatch, read_job
from bench.train.ours import config_for
from bench.train.workload import SHAPE, open_workload
from torch.nn.parallel import DistributedDataParallel

from brew_train.distributed.context import DistributedContext
from brew_train.inputs.bin_order import BinOrder
from brew_train.model.init_weights import materialize
from brew_train.model.model import RankingLM, build_model
from brew_train.model.sharding import shard
from brew_train.optim.factory import make_optimizer
from brew_train.stage import seed_step
from brew_train.step import take_step


def main() -> None:
    job = read_job()
    torch.set_num_threads(job.threads)
    workload = open_workload(Path(job.workload))
    watch = Stopwatch()
    with DistributedContext.from_torchrun() as sharded:
        # No mesh: the model stays whole. Every worker has the whole gradient, which is what `replicas` tells the step.
        context = replace(sharded, mesh=None, replicas=sharded.size)
        config = config_for(workload, job, workers=context.size)
        (stage,) = config.stages
        model = build_model(config.model, SHAPE)
        shard(model, context, config.sharding)
        materialize(model, config.model, context, seed=config.seed)
        model.train()
        optimizer = make_optimizer(model, stage)
        ddp = cast(RankingLM, DistributedDataParallel(model, gradient_as_bucket_view=True, broadcast_buffers=False))
        reader = workload.reader()
        order = BinOrder(n_bins=reader.n_bins, plan_hash=reader.plan_hash, seed=config.seed)
        position = order.start()
        for step in range(job.steps):
            bin_ids, position = order.take(position, stage.bins_per_step)
            seed_step(config.seed, step, context.rank)
            done = take_step(ddp, optimizer, stage, reader, bin_ids, context, sharding=config.sharding)
            watch.step(done.tokens, done.loss)
        if context.rank == 0:
            watch.write_outcome(job, workers=context.size, optimizer="schedule-free AdamW", sharding="DDP")


if __name__ == "__main__":
    main()

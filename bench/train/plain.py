"""Contender: a plain PyTorch training loop over the transformers model.

Mode `packed` reads the product's bins, one per micro-step; transformers makes the block-diagonal mask from the position
ids. Mode `causal` reads rows of 1,024 tokens from the same documents, with causal attention over the whole row. There,
documents attend to each other, so the result differs; the mode shows the cost of attention without a mask.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from bench.train.job import Job, Stopwatch, read_job
from bench.train.workload import CONTEXT, Workload, open_workload
from transformers import AutoModelForCausalLM

from brew_train.inputs.bin_order import BinOrder

Row = dict[str, torch.Tensor]
NO_TARGET = -100


def main() -> None:
    job = read_job()
    torch.set_num_threads(job.threads)
    workload = open_workload(Path(job.workload))
    lm = AutoModelForCausalLM.from_pretrained(workload.model, dtype=torch.float32, attn_implementation="sdpa")
    lm.train()
    optimizer = torch.optim.AdamW(lm.parameters(), lr=2e-3, fused=True)
    rows = packed_rows(workload, job) if job.options["mode"] == "packed" else causal_rows(workload, job)
    watch = Stopwatch()
    for _ in range(job.steps):
        step = [next(rows) for _ in range(job.bins_per_step)]
        targets = sum(int((row["labels"][:, 1:] != NO_TARGET).sum()) for row in step)
        total = 0.0
        for row in step:
            loss = lm(**row, use_cache=False, num_items_in_batch=targets).loss
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        watch.step(sum(row["input_ids"].numel() for row in step), total)
    watch.write_outcome(
        job,
        mode=job.options["mode"],
        attention=lm.config._attn_implementation,
        experts=lm.config._experts_implementation,
        optimizer="torch.optim.AdamW(fused=True)",
        rows_per_micro_step=1,
    )


def packed_rows(workload: Workload, job: Job) -> Iterator[Row]:
    """Yield the bins in the product's order."""
    reader = workload.reader()
    order = BinOrder(n_bins=reader.n_bins, plan_hash=reader.plan_hash, seed=0)
    position = order.start()
    while True:
        ids, position = order.take(position, job.bins_per_step)
        for bin_id in ids:
            row = reader[int(bin_id)]
            starts = np.cumsum(row.doc_lengths) - row.doc_lengths
            labels = row.input_ids.astype(np.int64)
            labels[starts] = NO_TARGET  # the model shifts labels: a document's first token is not a target
            places = np.arange(len(labels)) - np.repeat(starts, row.doc_lengths)
            yield {
                "input_ids": torch.from_numpy(row.input_ids.astype(np.int64))[None],
                "position_ids": torch.from_numpy(places)[None],
                "labels": torch.from_numpy(labels)[None],
            }


def causal_rows(workload: Workload, job: Job) -> Iterator[Row]:
    """Yield full rows of the concatenated documents."""
    stream = torch.tensor([i for ids in workload.documents() for i in ids])
    while True:
        for row in stream[: len(stream) // CONTEXT * CONTEXT].view(-1, 1, CONTEXT):
            yield {"input_ids": row, "labels": row}


if __name__ == "__main__":
    main()

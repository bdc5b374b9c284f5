"""Contender: TRL's SFTTrainer with packing (`bfd`), timed from a callback. Runs with .venv/bench on its path.

The settings are those below, with the changes in bench.train.contenders; bench/README.md gives the reasons.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import trl  # type: ignore[import-not-found]
from bench.train.job import Stopwatch, read_job
from bench.train.workload import CONTEXT, open_workload
from datasets import Dataset  # type: ignore[import-not-found]
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)


class Timer(TrainerCallback):
    """Records the end of each step, and the number of tokens that TRL counts in it."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch, self.trainer, self.before = watch, None, 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        assert self.trainer is not None
        total = self.trainer._total_train_tokens  # positions of padding-free rows: real tokens, of all processes
        self.watch.step(total - self.before)
        self.before = total


def main() -> None:
    job = read_job()
    torch.set_num_threads(job.threads)
    workload = open_workload(Path(job.workload))
    options = dict(job.options)
    rows, processes = options.pop("rows", 1), options.pop("processes", 1)
    attention = options.pop("attention", "sdpa")
    lm = AutoModelForCausalLM.from_pretrained(workload.model, dtype=torch.float32, attn_implementation=attention)
    if "experts" in options:
        lm.set_experts_implementation(options.pop("experts"))
    settings = {
        "packing": True,
        "packing_strategy": "bfd",
        "max_length": CONTEXT,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": job.bins_per_step // (rows * processes),
        "max_steps": job.steps,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "router_aux_loss_coef": 0.0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **options,
    }
    watch = Stopwatch()
    timer = Timer(watch)
    trainer = trl.SFTTrainer(
        model=lm,
        args=trl.SFTConfig(output_dir=job.out, **settings),
        train_dataset=Dataset.from_dict({"input_ids": workload.documents()}),
        processing_class=AutoTokenizer.from_pretrained(workload.tokenizer),
        callbacks=[timer],
    )
    timer.trainer = trainer
    trainer.train()
    if trainer.is_world_process_zero():
        watch.write_outcome(
            job,
            **settings,
            processes=processes,
            attention=lm.config._attn_implementation,
            experts=lm.config._experts_implementation,
            optimizer=trainer.args.optim.value,
            versions={name: version(name) for name in ("trl", "accelerate", "datasets")},
            packed_rows=len(trainer.train_dataset),
            losses_logged=[entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
            mask_error=mask_error(trainer, lm),
        )


@torch.no_grad()
def mask_error(trainer: trl.SFTTrainer, lm: Any) -> float:
    """Return the largest difference between hidden states of a packed row and of its documents alone.

    A value above rounding errors means that documents of a row attend to each other.
    """
    lm.eval()
    row = max(trainer.train_dataset, key=lambda row: len(row["seq_lengths"]))  # the most documents
    batch = trainer.data_collator([row])
    batch.pop("labels")
    packed = lm.model(**batch, use_cache=False).last_hidden_state[0]
    documents = torch.split(torch.tensor(row["input_ids"]), list(row["seq_lengths"]))
    alone = torch.cat([lm.model(input_ids=ids[None], use_cache=False).last_hidden_state[0] for ids in documents])
    return float((packed - alone).abs().max())


if __name__ == "__main__":
    main()

"""The plan of a training run: memory of a rank, speed, checkpoints, goodput, time and cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from brew_cluster.capacity.assumptions import TrainingAssumptions
from brew_cluster.capacity.bounds import Bounds, Quantity, span
from brew_cluster.capacity.failures import best_checkpoint_interval, expected_goodput, mean_time_between_failures
from brew_train.diagnostics.dry_run_report import DryRun

__all__ = ["TRAINING_QUANTITIES", "lost_time_curve", "training_plan"]

ZERO = "ZeRO stage 3, Rajbhandari et al. 2020, arXiv:1910.02054; FSDP2 with float32 shards"
RINGS = "ring algorithms, Patarasuk & Yuan 2009"
DALY = "Daly 2006, Future Generation Computer Systems 22(3)"
MFU = "PaLM, Chowdhery et al. 2022, arXiv:2204.02311, appendix B"

# The inputs of the formulas are in their names; the keys of a plan are the names of the quantities, in this order.
TRAINING_QUANTITIES: Sequence[Quantity] = (
    Quantity(name="parameters", unit="", formula="of the model", source="built without weights"),
    Quantity(name="active parameters", unit="", formula="top-k experts of each token", source="built without weights"),
    Quantity(name="tokens per step", unit="tokens", formula="GPUs · bins per GPU · context length", source="recipe"),
    Quantity(name="weights", unit="bytes", formula="4 · parameters / shards", source=ZERO),
    Quantity(name="gradients", unit="bytes", formula="4 · parameters / shards", source=ZERO),
    Quantity(name="optimizer", unit="bytes", formula="2 · 4 · parameters / shards", source=ZERO),
    Quantity(
        name="gathered weights", unit="bytes", formula="2 · (root + two layers); 2 · parameters without resharding",
        source="FSDP2, one layer fetched ahead; equals the dry run",
    ),
    Quantity(
        name="whole gradients", unit="bytes", formula="4 · layer + 2 · head", source="FSDP2; equals the dry run"
    ),
    Quantity(
        name="activations", unit="bytes", formula="kept for the backward pass, and one layer computed again",
        source="Korthikanti et al. 2022, arXiv:2205.05198, section 4.1; within 6% of the dry run",
    ),
    Quantity(
        name="peak memory", unit="bytes", formula="sum of the above; gradients only over several micro-steps",
        source="docs/scale.md; one H100 held 45.2 GB, docs/results/gpu.md",
    ),
    Quantity(
        name="memory left", unit="bytes", formula="85% of the GPU's memory - peak; negative: does not fit",
        source="the 15% are for CUDA, NCCL and fragmentation",
    ),
    Quantity(name="all-gather", unit="bytes", formula="2 · (n-1)/n · (parameters + layers - last)", source=RINGS),
    Quantity(name="reduce-scatter", unit="bytes", formula="4 · (n-1)/n · parameters", source=RINGS),
    Quantity(name="all-reduce", unit="bytes", formula="2 · (r-1)/r · 4 · parameters / shards", source=RINGS),
    Quantity(
        name="communication", unit="s", formula="bytes / network card; low: an eighth of them enters each card",
        source="NCCL's rings cross the network once per node; high: each GPU receives all bytes through its card",
    ),
    Quantity(name="computation", unit="s", formula="FLOPs / (MFU · peak FLOP/s)", source=MFU),
    Quantity(
        name="step", unit="s", formula="low: max(computation, communication); high: their sum",
        source="complete overlap; no overlap, as published for FSDP (arXiv:2504.14960, section 4.2)",
    ),
    Quantity(name="tokens/s", unit="tokens/s", formula="tokens per step / step", source="-"),
    Quantity(name="MFU with communication", unit="share", formula="FLOPs / (step · peak FLOP/s)", source=MFU),
    Quantity(name="checkpoint", unit="bytes", formula="12 · parameters, of all ranks", source="weights, two moments"),
    Quantity(
        name="blocked by a checkpoint", unit="s", formula="bytes of a rank / copy to the host",
        source="docs/results/gpu.md: 13.3 GB in 0.25 s; low speed: four ranks share it",
    ),
    Quantity(
        name="writing a checkpoint", unit="s", formula="bytes of a rank / write speed of a GPU's share of the storage",
        source="2 to 7 TB/s for 16,384 GPUs, Llama 3, arXiv:2407.21783, section 3.3.1; ours: 0.35 GB/s",
    ),
    Quantity(
        name="time between failures", unit="s", formula="1 / (nodes · failures per node and day)",
        source="Kokolis et al. 2025, arXiv:2410.21680: 2.34 and 6.50 per 1,000 node-days",
    ),
    Quantity(name="best checkpoint interval", unit="s", formula="Young/Daly; at least the writing", source=DALY),
    Quantity(name="checkpoint interval", unit="s", formula="checkpoint_every · step", source="recipe"),
    Quantity(
        name="goodput", unit="share", formula="t / (M · exp(R/M) · (exp((t+b)/M) - 1)); R: recovery + writing",
        source=f"{DALY}; recovery 5 to 20 minutes, arXiv:2410.21680",
    ),
    Quantity(name="goodput at the best interval", unit="share", formula="the same", source=DALY),
    Quantity(name="tokens of the run", unit="tokens", formula="steps · bins · context length", source="recipe"),
    Quantity(name="time", unit="s", formula="tokens / (tokens/s · goodput)", source="-"),
    Quantity(name="GPU-hours", unit="GPU-hours", formula="GPUs · time", source="-"),
    Quantity(name="cost", unit="currency", formula="GPU-hours · price", source="--price"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Scenario:
    """A value for each assumption; `overlaps`: communication runs beside computation, in rings through whole nodes."""

    mfu: float
    failures: float
    recovery: float
    copy: float
    write: float
    price: float
    overlaps: bool

    @classmethod
    def pair(cls, assumed: TrainingAssumptions) -> tuple["_Scenario", "_Scenario"]:
        """Return the optimistic and the pessimistic scenario."""
        price = assumed.price or Bounds.exact(math.nan)
        best = cls(
            mfu=assumed.mfu.high, failures=assumed.failures.low, recovery=assumed.recovery.low,
            copy=assumed.copy.high, write=assumed.write.high, price=price.low, overlaps=True,
        )  # fmt: skip
        worst = cls(
            mfu=assumed.mfu.low, failures=assumed.failures.high, recovery=assumed.recovery.high,
            copy=assumed.copy.low, write=assumed.write.low, price=price.high, overlaps=False,
        )  # fmt: skip
        return best, worst


def training_plan(
    run: DryRun, *, tokens: float, checkpoint_every: int, assumed: TrainingAssumptions
) -> dict[str, Bounds]:
    """Return the plan of a run: the range of each of `TRAINING_QUANTITIES`. The cost is left out without a price.

    Args:
        run: Bytes and FLOPs of a step, from `estimate_run` or a dry run.
        tokens: Tokens of the whole run.
        checkpoint_every: Steps between checkpoints.
        assumed: The assumptions.
    """
    best, worst = (
        _figures(run, scenario, tokens=tokens, checkpoint_every=checkpoint_every)
        for scenario in _Scenario.pair(assumed)
    )
    plan = span(best, worst)
    if assumed.price is None:
        del plan["cost"]
    return plan


def lost_time_curve(
    run: DryRun, intervals: Sequence[float], assumed: TrainingAssumptions
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Return the lost share of the time by checkpoint interval in seconds, optimistic and pessimistic."""
    best, worst = _Scenario.pair(assumed)
    return (
        [(interval, 1 - _goodput(run, best, interval)) for interval in intervals],
        [(interval, 1 - _goodput(run, worst, interval)) for interval in intervals],
    )


def _figures(run: DryRun, scenario: _Scenario, *, tokens: float, checkpoint_every: int) -> dict[str, float]:
    """Return each quantity in a scenario."""
    flops = run.micro_steps * run.flops
    communication = run.send_seconds_by_node if scenario.overlaps else run.send_seconds
    computation = flops / (scenario.mfu * run.gpu.flops)
    step = max(computation, communication) if scenario.overlaps else computation + communication
    step_tokens = run.gpus * run.micro_steps * run.tokens
    blocked, writing, mtbf = _checkpoint_times(run, scenario)
    best_interval = max(best_checkpoint_interval(blocked, mtbf), writing)
    goodput = _goodput(run, scenario, checkpoint_every * step)
    seconds = tokens / step_tokens * step / goodput if goodput else math.inf
    hours = run.gpus * seconds / 3_600
    return {
        "parameters": run.size.total,
        "active parameters": run.size.active,
        "tokens per step": step_tokens,
        "weights": run.peak.parameters,
        "gradients": run.gradients,
        "optimizer": run.peak.optimizer,
        "gathered weights": run.peak.gathered,
        "whole gradients": run.peak.reduced,
        "activations": run.peak.activations,
        "peak memory": run.peak.total,
        "memory left": run.gpu.usable * run.gpu.memory - run.peak.total,
        "all-gather": run.step.all_gather,
        "reduce-scatter": run.step.reduce_scatter,
        "all-reduce": run.step.all_reduce,
        "communication": communication,
        "computation": computation,
        "step": step,
        "tokens/s": step_tokens / step,
        "MFU with communication": flops / (step * run.gpu.flops),
        "checkpoint": run.checkpoint * run.gpus,
        "blocked by a checkpoint": blocked,
        "writing a checkpoint": writing,
        "time between failures": mtbf,
        "best checkpoint interval": best_interval,
        "checkpoint interval": checkpoint_every * step,
        "goodput": goodput,
        "goodput at the best interval": _goodput(run, scenario, best_interval),
        "tokens of the run": tokens,
        "time": seconds,
        "GPU-hours": hours,
        "cost": hours * scenario.price,
    }


def _checkpoint_times(run: DryRun, scenario: _Scenario) -> tuple[float, float, float]:
    """Return the seconds of blocking and of writing a checkpoint, and between failures."""
    nodes = run.gpus / run.gpu.per_node
    mtbf = mean_time_between_failures(nodes, scenario.failures)
    return run.checkpoint / (scenario.copy * 1e9), run.checkpoint / (scenario.write * 1e9), mtbf


def _goodput(run: DryRun, scenario: _Scenario, interval: float) -> float:
    blocked, writing, mtbf = _checkpoint_times(run, scenario)
    return expected_goodput(interval, blocked=blocked, recovery=scenario.recovery + writing, mtbf=mtbf)

"""The inputs of a plan that only a measurement on the cluster can replace: their ranges, and where these come from."""

from dataclasses import dataclass

from brew_cluster.capacity.bounds import Bounds

__all__ = ["COMPUTING", "FAILURES", "PREFILL", "RECOVERY", "WRITE", "ServingAssumptions", "TrainingAssumptions"]

# MFU without communication. Low: a mixture on one H100 (docs/results/gpu.md). High: Mixtral 8x22B in Megatron with five
# kinds of parallelism (arXiv:2504.14960, table 1).
COMPUTING = Bounds(0.25, 0.493)
FAILURES = Bounds(2.34, 6.50)  # per 1,000 node-days, on two clusters of A100 (arXiv:2410.21680)
RECOVERY = Bounds(300, 1_200)  # seconds to start a task (arXiv:2410.21680)
COPY = Bounds(13, 53)  # GB/s; high: one GPU on its host (docs/results/gpu.md); low: assumed, four share that
WRITE = Bounds(0.122, 0.427)  # GB/s; 2 and 7 TB/s for 16,384 GPUs (arXiv:2407.21783, section 3.3.1)
# MFU of the forward pass. Low: below the 27% of SGLang with Qwen3 0.6B (pull request 9748 of sgl-project/sglang). High:
# assumed, within the 43% to 76% of PaLM 540B on TPUs (arXiv:2211.05102).
PREFILL = Bounds(0.2, 0.5)
OUTSIDE = Bounds(0.007, 0.024)  # seconds; CPU of a ranking (docs/results/limits.md), and HTTP (docs/results/serving.md)


@dataclass(frozen=True, kw_only=True)
class TrainingAssumptions:
    """The assumptions of a training run."""

    mfu: Bounds = COMPUTING  # without communication
    failures: Bounds = FAILURES
    recovery: Bounds = RECOVERY  # seconds from a failure until training continues
    copy: Bounds = COPY  # of one rank to the memory of its host
    write: Bounds = WRITE  # of one rank to the storage
    price: Bounds | None = None  # of a GPU for an hour


@dataclass(frozen=True, kw_only=True)
class ServingAssumptions:
    """The assumptions of a service."""

    mfu: Bounds = PREFILL
    work: Bounds | None = None  # measured seconds of work per request, instead of the formulas
    outside: Bounds = OUTSIDE  # the engine
    price: Bounds | None = None  # of a GPU for an hour

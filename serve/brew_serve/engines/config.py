"""Settings of the engine that runs the model; free of vLLM, so that recipes can contain them."""

from dataclasses import dataclass
from typing import Annotated

from brew_platform.errors import ConfigError
from brew_platform.settings import Name, OneOf, PositiveInt, Range, Settings
from brew_serve.engines.rope_scaling import RopeScaling

__all__ = ["EngineConfig"]


@dataclass(frozen=True, kw_only=True)
class EngineConfig(Settings):
    """Settings of an engine.

    The defaults fit a demo model of a few million parameters in fp32 on two CPU cores. With prefixes of about 1,000
    tokens that grow by 14 tokens per row, the forward pass takes 96% of the engine's time there. The limits per step
    therefore have little effect; `block_size`, and threads that do not spin while idle, have a large one.
    """

    kind: Name = "vllm"  # name of an installed engine: vllm, torch, or an entry point in the group brew360.engines
    # Tokens of a prompt and its answer; None: the context length of the version.
    max_model_len: Annotated[int, Range(ge=2)] | None = None
    # Compute label scores in packed passes (scoring_worker) instead of through vLLM's scheduler. None: on CPU only;
    # packed passes are not tested on a GPU.
    passes: bool | None = None
    # Cache of keys and values. With packed passes, label scores have a second cache of this size; memory is allocated
    # as the caches fill. None: on CPU 256 MiB (130,000 tokens of the demo model, enough for all members in flight); on
    # a GPU the memory that gpu_memory_utilization leaves beside the weights.
    kv_cache_bytes: PositiveInt | None = None
    # Tokens per block; only whole blocks of a prefix are shared. None: on CPU 32, the smallest there; on a GPU vLLM's
    # default.
    block_size: PositiveInt | None = None
    max_num_seqs: PositiveInt = 128  # prompts per engine step; more adds latency and no measurable throughput
    max_num_batched_tokens: PositiveInt = 4096  # tokens computed per engine step; at least max_model_len
    # Threads of the engine process; 0: all cores that this process can use.
    threads: Annotated[int, Range(ge=0, le=4_096)] = 0
    # float32 agrees with the reference to 1e-5; bfloat16 for GPUs (logits stay fp32).
    dtype: Annotated[str, OneOf(("float32", "bfloat16", "float16"))] = "float32"
    # fp8: weights and activations, quantized at load, GPU only; the head stays fp32.
    quantization: Annotated[str, OneOf(("fp8",))] | None = None
    tensor_parallel_size: PositiveInt = 1  # GPUs of one machine that each matrix is split over
    # Fraction of GPU memory that the engine takes; the rest is for the sampler.
    gpu_memory_utilization: Annotated[float, Range(gt=0, le=1)] = 0.85
    rope: RopeScaling | None = None  # extends the context beyond the trained length

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantization is not None and self.dtype == "float32":
            raise ConfigError(
                f"quantization is {self.quantization}, which needs 16-bit activations, but dtype is float32. Set "
                f"dtype=bfloat16."
            )

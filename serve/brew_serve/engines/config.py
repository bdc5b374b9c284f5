"""Settings of the engine that runs the model; free of vLLM, so that recipes can contain them."""

from dataclasses import dataclass

from brew_platform.errors import ConfigError
from brew_serve.engines.rope_scaling import RopeScaling

__all__ = ["EngineConfig"]


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Settings of an engine.

    The defaults fit a demo model of a few million parameters in fp32 on two CPU cores. With prefixes of about 1,000
    tokens that grow by 14 tokens per row, the forward pass takes 96% of the engine's time there. The limits per step
    therefore have little effect; `block_size`, and threads that do not spin while idle, have a large one.
    """

    kind: str = "vllm"  # name of an installed engine: vllm, torch, or an entry point in the group brew360.engines
    max_model_len: int | None = None  # tokens of a prompt and its answer; None: the context length of the version
    # Compute label scores in packed passes (scoring_worker) instead of through vLLM's scheduler. None: on CPU only;
    # packed passes are not tested on a GPU.
    passes: bool | None = None
    # Cache of keys and values. With packed passes, label scores have a second cache of this size; memory is allocated
    # as the caches fill. None: on CPU 256 MiB (130,000 tokens of the demo model, enough for all members in flight); on
    # a GPU the memory that gpu_memory_utilization leaves beside the weights.
    kv_cache_bytes: int | None = None
    # Tokens per block; only whole blocks of a prefix are shared. None: on CPU 32, the smallest there; on a GPU vLLM's
    # default.
    block_size: int | None = None
    max_num_seqs: int = 128  # prompts per engine step; more adds latency and no measurable throughput
    max_num_batched_tokens: int = 4096  # tokens computed per engine step; at least max_model_len
    threads: int = 0  # threads of the engine process; 0: all cores that this process can use
    dtype: str = "float32"  # float32 agrees with the reference to 1e-5; bfloat16 for GPUs (logits stay fp32)
    quantization: str | None = None  # fp8: weights and activations, quantized at load, GPU only; the head stays fp32
    tensor_parallel_size: int = 1  # GPUs of one machine that each matrix is split over
    gpu_memory_utilization: float = 0.85  # fraction of GPU memory that the engine takes; the rest is for the sampler
    rope: RopeScaling | None = None  # extends the context beyond the trained length

    def __post_init__(self) -> None:
        if not self.kind:
            raise ConfigError("engine.kind is empty; give the name of an engine, such as vllm.")
        for name in ("kv_cache_bytes", "block_size", "max_num_seqs", "max_num_batched_tokens", "tensor_parallel_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"engine.{name} is {value}; give a number greater than 0.")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ConfigError(f"engine.max_model_len is {self.max_model_len}; give 2 or more, or null.")
        if self.threads < 0:
            raise ConfigError(f"engine.threads is {self.threads}; give 0 for all cores, or a number of threads.")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"engine.dtype is {self.dtype!r}; it is float32, bfloat16 or float16.")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(
                f"engine.gpu_memory_utilization is {self.gpu_memory_utilization}; give a fraction greater than 0, up "
                f"to 1."
            )
        if self.quantization not in (None, "fp8"):
            raise ConfigError(f"engine.quantization is {self.quantization!r}; it is fp8 or null.")
        if self.quantization is not None and self.dtype == "float32":
            raise ConfigError(
                f"engine.quantization is {self.quantization}, which needs 16-bit activations, but engine.dtype is "
                f"float32. Set engine.dtype=bfloat16."
            )

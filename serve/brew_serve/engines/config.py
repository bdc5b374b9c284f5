"""How a model is run: the settings of the serving engine, free of vLLM so that recipes can hold them."""

from dataclasses import dataclass

from brew_platform.errors import ConfigError
from brew_serve.engines.rope_scaling import RopeScaling

__all__ = ["EngineConfig"]


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The defaults are for a demo model of a few million parameters in fp32 on two CPU cores.

    Measured there with prefixes of about 1,000 tokens that grow by 14 a row: computing takes 96% of the engine's time,
    so the limits per step below matter little; what matters is `block_size` and that idle threads do not spin.
    """

    max_model_len: int | None = None  # tokens of a prompt and its answer; None takes the version's context length
    # Label scores are computed in passes of our own (scoring_worker) instead of by vLLM's scheduler. None: on CPU only,
    # as it has not been tried on a GPU.
    passes: bool | None = None
    # Cache of keys and values; with passes there is a second one, for label scores, and memory is taken as they fill.
    # None: on CPU 256 MiB, which are 130,000 tokens of the demo model, so that the members in flight stay cached; on a
    # GPU what gpu_memory_utilization leaves beside the weights.
    kv_cache_bytes: int | None = None
    # Tokens; prefixes are shared in whole blocks only. None: on CPU 32, the smallest there; on a GPU vLLM's choice.
    block_size: int | None = None
    max_num_seqs: int = (
        128  # prompts per engine step; more gains nothing measurable and adds to the first answer's wait
    )
    max_num_batched_tokens: int = 4096  # tokens computed per engine step; raised to max_model_len where that is longer
    threads: int = 0  # of the engine process; 0 takes every core that this process may use
    dtype: str = "float32"  # float32 agrees with the reference to 1e-5; bfloat16 for GPUs (logits stay fp32)
    quantization: str | None = None  # fp8: weights and activations of a GPU, made at load; the head stays fp32
    tensor_parallel_size: int = 1  # GPUs of one machine that each matrix is split over
    gpu_memory_utilization: float = 0.85  # share of a GPU's memory that the engine takes; the rest is the sampler's
    rope: RopeScaling | None = None  # also read prompts longer than the model was trained on

    def __post_init__(self) -> None:
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
                f"engine.gpu_memory_utilization is {self.gpu_memory_utilization}; give a share greater than 0, up to 1."
            )
        if self.quantization not in (None, "fp8"):
            raise ConfigError(f"engine.quantization is {self.quantization!r}; it is fp8 or null.")
        if self.quantization is not None and self.dtype == "float32":
            raise ConfigError(
                f"engine.quantization is {self.quantization}, whose activations come from 16 bits, but engine.dtype is "
                f"float32. Give engine.dtype=bfloat16."
            )

"""How a model is run: the settings of the serving engine, free of vLLM so that recipes can hold them."""

from dataclasses import dataclass

from brew_platform.errors import ConfigError

__all__ = ["EngineConfig"]


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The defaults are for a demo model of a few million parameters in fp32 on two CPU cores.

    Measured there with prefixes of about 1,000 tokens that grow by 14 a row: computing takes 96% of the engine's time,
    so the limits per step below matter little; what matters is `block_size` and that idle threads do not spin.
    """

    max_model_len: int | None = None  # tokens of a prompt and its answer; None takes the version's context length
    kv_cache_bytes: int = 256 * 1024**2  # 130,000 tokens of the demo model: the members in flight stay cached
    block_size: int = 32  # tokens; prefixes are shared in whole blocks only, and 32 is the smallest on CPU
    max_num_seqs: int = (
        128  # prompts per engine step; more gains nothing measurable and adds to the first answer's wait
    )
    max_num_batched_tokens: int = 4096  # tokens computed per engine step; raised to max_model_len where that is longer
    threads: int = 0  # of the engine process; 0 takes every core that this process may use
    dtype: str = "float32"  # float32 agrees with the reference to 1e-5; bfloat16 for GPUs (logits stay fp32)

    def __post_init__(self) -> None:
        for name in ("kv_cache_bytes", "block_size", "max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"engine.{name} is {getattr(self, name)}; give a number greater than 0.")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ConfigError(f"engine.max_model_len is {self.max_model_len}; give 2 or more, or null.")
        if self.threads < 0:
            raise ConfigError(f"engine.threads is {self.threads}; give 0 for all cores, or a number of threads.")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"engine.dtype is {self.dtype!r}; it is float32, bfloat16 or float16.")

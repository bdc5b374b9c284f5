"""Maps engine settings to vLLM's: arguments of `AsyncEngineArgs` and the environment of its process. Pure functions.

Does not import vLLM, so that the arguments for a GPU can be tested on a machine without one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from brew_platform.errors import UserError
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.rope_scaling import rope_overrides

__all__ = ["CPU_BLOCK_SIZE", "CPU_CACHE_BYTES", "Device", "engine_arguments", "engine_environment"]

Device = Literal["cpu", "gpu"]

CPU_CACHE_BYTES = 256 * 1024**2
CPU_BLOCK_SIZE = 32  # tokens; vLLM's own choice on CPU is 128, of which a prefix of 120 shares nothing


def engine_arguments(folder: Path, model: Mapping[str, Any], config: EngineConfig, *, device: Device) -> dict[str, Any]:
    """Keyword arguments of `vllm.AsyncEngineArgs`, without the executor.

    Args:
        folder: Hugging Face files of the model.
        model: its config.json.
        config: with max_model_len.
        device: what vLLM was built for.

    Raises:
        UserError: a setting that this device or this model cannot have.
    """
    arguments: dict[str, Any] = {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # ours names an end token, which would be checked for every request
        "dtype": config.dtype,
        "hf_overrides": {"head_dtype": "float32", **rope_overrides(model, config.rope)},
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": max(config.max_num_batched_tokens, config.max_model_len or 0),
        "tensor_parallel_size": config.tensor_parallel_size,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if device == "cpu" if config.passes is None else config.passes:
        arguments["worker_extension_cls"] = "brew_serve.engines.vllm.scoring_worker.ScoringWorker"
    if device == "cpu":
        if config.quantization is not None:
            raise UserError(
                f"engine.quantization is {config.quantization}, which needs a GPU, but this vLLM computes on CPU. "
                f"Leave it out here, or serve on a machine with GPUs."
            )
        arguments |= {
            "enforce_eager": True,
            "block_size": config.block_size or CPU_BLOCK_SIZE,
            "kv_cache_memory_bytes": config.kv_cache_bytes or CPU_CACHE_BYTES,
        }
        return arguments
    arguments["gpu_memory_utilization"] = config.gpu_memory_utilization
    if config.block_size is not None:
        arguments["block_size"] = config.block_size
    if config.kv_cache_bytes is not None:
        arguments["kv_cache_memory_bytes"] = config.kv_cache_bytes
    # Weights that are stored in fp8 say so themselves. Those that are not are quantised at load: one scale per output
    # channel, and one per token for activations. Embedding and head are no linear layers to vLLM and keep their dtype.
    if config.quantization == "fp8" and "quantization_config" not in model:
        arguments["quantization"] = "fp8_per_channel"
    return arguments


def engine_environment(device: Device, *, threads: int) -> dict[str, str]:
    """Variables of vLLM and of the process that it starts. Nothing may reach the network: models are local folders."""
    everywhere = {
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads cost two cores that others share two thirds of the rate
    }
    if device == "gpu":
        return everywhere
    return everywhere | {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the cores are shared with Ray's other processes
        "TORCHDYNAMO_DISABLE": "1",  # eager mode still compiles a sampling helper: 5 s at the first request
    }

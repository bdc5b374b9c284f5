"""Converts engine settings to the arguments of vLLM's `AsyncEngineArgs` and to its environment. Pure functions.

The module does not import vLLM, so that the arguments for a GPU can be tested on a machine without one.
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
CPU_BLOCK_SIZE = 32  # tokens; with vLLM's default on CPU, 128, a prefix of 120 tokens could not be shared


def engine_arguments(folder: Path, model: Mapping[str, Any], config: EngineConfig, *, device: Device) -> dict[str, Any]:
    """Return the keyword arguments of `vllm.AsyncEngineArgs`, without the executor.

    Args:
        folder: Hugging Face files of the model.
        model: Content of its config.json.
        config: Settings, with `max_model_len` set.
        device: The device that vLLM was built for.

    Raises:
        UserError: The device or the model does not support a setting.
    """
    arguments: dict[str, Any] = {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # our generation_config.json has an end token, which vLLM would check per request
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
                f"engine.quantization is {config.quantization}, which needs a GPU, but this vLLM runs on CPU. Remove "
                f"it, or serve on a machine with GPUs."
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
    # The config.json of weights stored in fp8 has a quantization_config. Other weights are quantised at load: one scale
    # per output channel, and one per token for activations. vLLM does not treat embedding and head as linear layers, so
    # they keep their dtype.
    if config.quantization == "fp8" and "quantization_config" not in model:
        arguments["quantization"] = "fp8_per_channel"
    return arguments


def engine_environment(device: Device, *, threads: int) -> dict[str, str]:
    """Return the environment variables of vLLM and of the process that it starts.

    They disable network access, because models are local folders.

    Args:
        device: The device that vLLM was built for.
        threads: Number of OpenMP threads.
    """
    everywhere = {
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # on two shared cores, spinning threads reduce throughput by two thirds
    }
    if device == "gpu":
        return everywhere
    return everywhere | {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the cores are shared with Ray's other processes
        "TORCHDYNAMO_DISABLE": "1",  # eager mode still compiles a sampling helper: 5 s at the first request
    }

"""The mapping of our settings to vLLM's arguments, for CPU and for GPU, tested without a GPU."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from brew_cluster.jobs.serve_job import load_serve
from brew_platform.errors import ConfigError, UserError
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.rope_scaling import RopeScaling
from brew_serve.engines.vllm.arguments import engine_arguments, engine_environment

FOLDER = Path("/version")
# Fields of Mixtral 8x22B that matter here.
MODEL: dict[str, Any] = {
    "hidden_size": 6144,
    "num_attention_heads": 48,
    "max_position_embeddings": 65_536,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
}
RECIPES = Path(__file__).parents[4] / "cluster/brew_cluster/recipes"


def test_defaults_on_cpu() -> None:
    arguments = engine_arguments(FOLDER, MODEL, EngineConfig(max_model_len=512), device="cpu")
    assert arguments == {
        "model": "/version",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "dtype": "float32",
        "hf_overrides": {"head_dtype": "float32"},
        "max_model_len": 512,
        "max_num_seqs": 128,
        "max_num_batched_tokens": 4096,
        "tensor_parallel_size": 1,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "enforce_eager": True,
        "block_size": 32,
        "kv_cache_memory_bytes": 256 * 2**20,
        "worker_extension_cls": "brew_serve.engines.vllm.scoring_worker.ScoringWorker",
    }
    config = EngineConfig(max_model_len=8000, block_size=64, kv_cache_bytes=5)
    arguments = engine_arguments(FOLDER, MODEL, config, device="cpu")
    assert (arguments["block_size"], arguments["kv_cache_memory_bytes"]) == (64, 5)
    assert arguments["max_num_batched_tokens"] == 8000
    assert "worker_extension_cls" not in engine_arguments(FOLDER, MODEL, EngineConfig(passes=False), device="cpu")
    assert "worker_extension_cls" in engine_arguments(FOLDER, MODEL, EngineConfig(passes=True), device="gpu")


def test_arguments_of_the_h100_recipe() -> None:
    job = load_serve(["h100"])
    assert job.gpus == job.engine.tensor_parallel_size == 4
    assert job.middleware.keys_path is not None
    engine = dataclasses.replace(job.engine, max_model_len=32_768)
    arguments = engine_arguments(FOLDER, MODEL, engine, device="gpu")
    assert arguments == {
        "model": "/version",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "dtype": "bfloat16",
        "quantization": "fp8_per_channel",
        "hf_overrides": {"head_dtype": "float32"},
        "max_model_len": 32_768,
        "max_num_seqs": 512,
        "max_num_batched_tokens": 32_768,
        "tensor_parallel_size": 4,
        "gpu_memory_utilization": 0.85,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }


def test_fp8_weights_are_not_quantised_again() -> None:
    engine = EngineConfig(dtype="bfloat16", quantization="fp8", block_size=64, kv_cache_bytes=10**9)
    arguments = engine_arguments(FOLDER, MODEL | {"quantization_config": {}}, engine, device="gpu")
    assert "quantization" not in arguments
    assert (arguments["block_size"], arguments["kv_cache_memory_bytes"]) == (64, 10**9)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_rope_scaling_and_head_dtype_are_both_overrides(device: Any) -> None:
    engine = EngineConfig(max_model_len=131_072, rope=RopeScaling(alpha=2))
    overrides = engine_arguments(FOLDER, MODEL, engine, device=device)["hf_overrides"]
    assert overrides["head_dtype"] == "float32"
    assert overrides["max_position_embeddings"] == 131_072
    assert overrides["rope_parameters"]["rope_theta"] == pytest.approx(1e6 * 2 ** (128 / 126))


def test_settings_that_the_device_does_not_support_are_refused() -> None:
    engine = EngineConfig(dtype="bfloat16", quantization="fp8")
    with pytest.raises(UserError, match=r"engine\.quantization is fp8, which needs a GPU, but this vLLM runs on CPU"):
        engine_arguments(FOLDER, MODEL, engine, device="cpu")
    for wrong, sentence in [
        ({"quantization": "fp8"}, r"which needs 16-bit activations, but dtype is float32"),
        ({"quantization": "int3"}, r"^quantization is 'int3'; give one of fp8"),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            EngineConfig(**wrong)
    with pytest.raises(ConfigError, match=r"gpus is 1, but the engine splits the model over 4"):
        load_serve(["h100", "gpus=1"])


def test_a_gpu_can_compile_and_no_process_uses_the_network() -> None:
    cpu, gpu = engine_environment("cpu", threads=3), engine_environment("gpu", threads=3)
    assert cpu["TORCHDYNAMO_DISABLE"] == "1"
    assert "TORCHDYNAMO_DISABLE" not in gpu
    for environment in (cpu, gpu):
        assert environment["HF_HUB_OFFLINE"] == environment["VLLM_NO_USAGE_STATS"] == "1"
        assert environment["OMP_NUM_THREADS"] == "3"


def test_every_recipe_that_ships_loads() -> None:
    for path in sorted(RECIPES.glob("serve*.yaml")):
        assert yaml.safe_load(path.read_text())
        load_serve([str(path)])


@pytest.mark.real
@pytest.mark.filterwarnings("ignore")  # vLLM's, at import
def test_vllm_accepts_every_argument_and_does_not_quantise_the_head() -> None:
    from vllm import AsyncEngineArgs
    from vllm.config.quantization import resolve_quantization_config
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.quantization.online.base import OnlineQuantizationConfig
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    engine = dataclasses.replace(load_serve(["h100"]).engine, max_model_len=32_768)
    arguments = engine_arguments(FOLDER, MODEL, engine, device="gpu")
    accepted = AsyncEngineArgs(**arguments)
    assert {name: getattr(accepted, name) for name in arguments if name != "hf_overrides"}.items() <= arguments.items()

    quantisation = OnlineQuantizationConfig(resolve_quantization_config(arguments["quantization"], None))
    assert quantisation.resolve_quant_method_cls(LinearBase, "model.layers.0.self_attn.o_proj") is not None
    assert quantisation.resolve_quant_method_cls(ParallelLMHead, "lm_head") is None

"""Fields of config.json are honoured in training and in serving, or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from brew_platform.errors import UserError
from brew_platform.model_folder.families import FAMILIES, check_architecture, require_unquantized
from brew_platform.model_folder.weight_files import read_model_config

FOLDER = Path("models/base")
# As published, less sizes: fields that real folders have must not be refused.
PUBLISHED: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "_sliding_window_pattern": 6,
        "architectures": ["Gemma3ForCausalLM"],
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": None,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
        "query_pre_attn_scalar": 256,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "rope_theta": 1000000.0,
        "sliding_window": 512,
        "torch_dtype": "bfloat16",
        "unk_token_id": 3,  # as transformers converts a GGUF
        "use_bidirectional_attention": False,
    },
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "hidden_act": "silu",
        "max_length": 4096,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "temperature": 0.9,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
    },
    "qwen3_moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "max_window_layers": 48,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "rope_scaling": None,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    "qwen2": {"max_window_layers": 28, "sliding_window": 131072, "use_mrope": False, "use_sliding_window": False},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2, "router_jitter_noise": 0.0, "sliding_window": None},
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_models_are_accepted(kind: str) -> None:
    assert check_architecture({"model_type": kind, **PUBLISHED[kind]}, FOLDER) is FAMILIES[kind]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"model_type": "gpt2"}, r"is of type gpt2, which is not supported: start from one of llama,"),
        ({}, "is of type None"),
        ({"model_type": "gemma3"}, r"is a gemma3, which reads images too, .* take a text-only Gemma 3"),
        (
            {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
            r"is a LlamaForSequenceClassification .* whose architecture is LlamaForCausalLM",
        ),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, r"has attn_logit_softcapping=50\.0"),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, r"has final_logit_softcapping=30\.0"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "has use_bidirectional_attention=True"),
        ({"model_type": "gemma3_text", "hidden_activation": "silu"}, r"only 'gelu_pytorch_tanh' is computed alike"),
        ({"model_type": "llama", "sliding_window": 4096}, "has sliding_window=4096 .* not honoured for llama"),
        ({"model_type": "llama", "attention_sinks": True}, "has attention_sinks=True"),
        ({"model_type": "llama", "is_causal": False}, "has is_causal=False"),
        ({"model_type": "llama", "partial_rotary_factor": 0.5}, r"has partial_rotary_factor=0\.5"),
        ({"model_type": "llama", "hidden_act": "gelu"}, r"has hidden_act='gelu' .* for llama only 'silu'"),
        ({"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "code.Model"}}, "has auto_map="),
        ({"model_type": "mistral", "attention_bias": True}, "has attention_bias=True .* not honoured for mistral"),
        ({"model_type": "mistral", "layer_types": ["sliding_attention", "full_attention"]}, "has layer_types="),
        ({"model_type": "qwen3", "attention_bias": True}, "has attention_bias=True .* for qwen3 only False"),
        ({"model_type": "qwen2", "head_dim": 64, "hidden_size": 64, "num_attention_heads": 2}, "has head_dim=64"),
        (
            {"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 2, "num_hidden_layers": 4},
            "a sliding window on some of its layers only",
        ),
        (
            {
                "model_type": "qwen3",
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            "a sliding window on some of its layers only",
        ),
        ({"model_type": "qwen2_moe", "use_sliding_window": True}, "has use_sliding_window=True"),
        ({"model_type": "gemma3_text", "layer_types": ["chunked_attention"]}, "has layers of type chunked_attention"),
        (
            {"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            r"rotary embedding of type 'dynamic' \(rope_scaling .* one of default, linear, llama3, yarn",
        ),
        (
            {"model_type": "llama", "rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}},
            r"has mscale=0\.7 in rope_parameters",
        ),
        (
            {"model_type": "qwen3", "rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            "a rotary embedding for each layer type .* not honoured for qwen3",
        ),
        ({"model_type": "llama", "rope_scaling": "linear"}, "must be an object or null"),
    ],
)
def test_a_field_with_different_effects_in_training_and_serving_is_refused(model: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_architecture(model, FOLDER)


def test_a_quantized_model_is_served_but_not_trained() -> None:
    model = {"model_type": "llama", "quantization_config": {"quant_method": "awq"}}
    check_architecture(model, FOLDER)
    with pytest.raises(UserError, match=r"is quantized \(awq, .* start from its unquantized weights"):
        require_unquantized(model, FOLDER)


@pytest.mark.parametrize(
    "model",
    [
        {"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 0, "num_hidden_layers": 4},
        {"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 4, "num_hidden_layers": 4},
        {"model_type": "qwen2", "head_dim": 32, "hidden_size": 64, "num_attention_heads": 2},
        {"model_type": "llama", "layer_types": ["full_attention"] * 2, "unsloth_fixed": True, "is_causal": True},
    ],
)
def test_values_that_change_nothing_are_accepted(model: dict[str, Any]) -> None:
    check_architecture(model, FOLDER)


def write(name: str, text: str = "") -> Any:
    def prepare(folder: Path) -> None:
        (folder / name).write_text(text)

    return prepare


@pytest.mark.parametrize(
    ("prepare", "name", "message"),
    [
        (lambda folder: None, "", r"has no config\.json: give a folder that transformers' save_pretrained wrote"),
        (lambda folder: None, "none", r"none has no config\.json"),
        (write("config.json", "{"), "", r"the config\.json in .* cannot be read"),
        (write("config.json", "[]"), "", r"cannot be read \(it is not a JSON object\)"),
        (write("model-q4.gguf"), "", r"is a GGUF, .* gguf_file=name"),
        (write("model-q4.gguf"), "model-q4.gguf", r"model-q4\.gguf is a GGUF"),
        (write("model.safetensors"), "model.safetensors", r"is a file, but a model is a folder"),
        (write("adapter_config.json", "{}"), "", r"is an adapter .* merge the two"),
    ],
)
def test_a_folder_that_is_not_a_model_is_refused(prepare: Any, name: str, message: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    with pytest.raises(UserError, match=message):
        read_model_config(tmp_path / name)


def test_the_content_of_config_json_is_returned(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert read_model_config(tmp_path) == {"model_type": "llama"}

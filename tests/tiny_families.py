"""Tiny random models of every family, with the details of the architecture that are easily lost switched on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

__all__ = ["TINY", "make_tiny", "write_tiny"]

VOCABULARY = 96
_COMMON: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}
WINDOW = 12
TINY: Mapping[str, Mapping[str, Any]] = {
    "llama": {"rope_parameters": _LLAMA3, "attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": WINDOW, "head_dim": 64},
    "mixtral": {"sliding_window": WINDOW, "num_local_experts": 4},
    "qwen2": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "qwen3": {"head_dim": 64, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 40, "mlp_only_layers": [1]},
    "qwen3_moe": {
        **_EXPERTS,
        "head_dim": 64,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "mlp_only_layers": [1],
    },
    "gemma3_text": {
        "head_dim": 64,
        "query_pre_attn_scalar": 40,
        "attention_bias": True,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
        },
        "tie_word_embeddings": True,
    },
}
"""Fields of config.json by model type. The window is shorter than the documents of the tests."""


def make_tiny(model_type: str, *, seed: int = 1, **changes: Any) -> PreTrainedModel:
    """Returns a model whose biases and norms are random too: transformers draws matrices only."""
    torch.manual_seed(seed)
    fields = {**_COMMON, **TINY[model_type], **changes}
    lm: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fields))
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        head = lm.get_output_embeddings().weight
        if head is lm.get_input_embeddings().weight:
            head.mul_(0.5)  # otherwise the answer would depend on the last token only
    return lm


def write_tiny(model_type: str, folder: Path, *, seed: int = 1, **changes: Any) -> PreTrainedModel:
    """Writes the model as a folder in transformers' format, and returns it."""
    lm = make_tiny(model_type, seed=seed, **changes)
    lm.save_pretrained(folder)
    return lm

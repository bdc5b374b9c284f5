"""Model families that can be trained and served, and the fields of config.json that each of them understands.

transformers ignores fields that it does not know, and vLLM ignores some that transformers honours. A field that changes
the computation in only one of them would train one model and serve another. Therefore every field is either known to
have the same effect in both, known to have none, or refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from brew_platform.errors import UserError

__all__ = ["FAMILIES", "Family", "check_architecture", "require_unquantized"]

# Any value of these is honoured, or is checked by `_check_rope`.
_SIZES = frozenset(
    [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "original_max_position_embeddings",
    ]
)
# These do not change what the model computes from token ids.
_WITHOUT_EFFECT = frozenset(
    [
        "model_type",
        "architectures",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "use_cache",
        "cache_implementation",
        "return_dict",
        "initializer_range",
        "output_hidden_states",
        "output_attentions",
        "output_router_logits",
        "router_aux_loss_coef",
        "pretraining_tp",
        "id2label",
        "label2id",
        "tie_last_hidden_states",
        "default_theta",
        "tokenizer_class",
        "problem_type",
        "task_specific_params",
        # settings of generation, which older releases of transformers kept here
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "length_penalty",
        "num_beams",
        "num_return_sequences",
        "max_length",
        "min_length",
        "quantization_config",  # `require_unquantized` checks it
        "attention_dropout",  # acts in training only
        "router_jitter_noise",  # acts in training only
    ]
)
_EXPERTS = frozenset(
    [
        "num_experts",
        "num_local_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "norm_topk_prob",
        "decoder_sparse_step",
        "mlp_only_layers",
    ]
)
_ROPE_FIELDS = {  # rope_type -> fields beside rope_type and rope_theta
    "default": frozenset[str](),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
    "yarn": frozenset({"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"}),
}
_LAYER_TYPES = ("sliding_attention", "full_attention")


@dataclass(frozen=True, kw_only=True)
class Family:
    """The models of one `model_type`.

    Args:
        architecture: transformers' class of the causal LM, as `architectures` names it.
        honoured: fields besides the common ones that transformers and vLLM both honour, whatever their value.
        fixed: fields that are honoured with one value only. vLLM computes this value whatever config.json says.
        rope_by_layer_type: each layer type has its own rotary embedding.
        mixed_windows: layers with and without a sliding window may be mixed.
    """

    architecture: str
    honoured: frozenset[str] = frozenset()
    fixed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({"hidden_act": "silu"}))
    rope_by_layer_type: bool = False
    mixed_windows: bool = False


_SILU = {"hidden_act": "silu"}
_QWEN_WINDOW = frozenset({"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"})

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": Family(
            architecture="LlamaForCausalLM", honoured=frozenset({"head_dim", "attention_bias", "mlp_bias"})
        ),
        "mistral": Family(architecture="MistralForCausalLM", honoured=frozenset({"head_dim", "sliding_window"})),
        "mixtral": Family(
            architecture="MixtralForCausalLM",
            honoured=frozenset({"head_dim", "sliding_window", "num_local_experts", "num_experts_per_tok"}),
        ),
        "qwen2": Family(architecture="Qwen2ForCausalLM", honoured=_QWEN_WINDOW),
        # Qwen's attention_bias: vLLM has no bias on the output projection, transformers has.
        "qwen3": Family(
            architecture="Qwen3ForCausalLM",
            honoured=_QWEN_WINDOW | {"head_dim"},
            fixed=MappingProxyType({**_SILU, "attention_bias": False}),
        ),
        # transformers hands no window to the attention of qwen2_moe.
        "qwen2_moe": Family(
            architecture="Qwen2MoeForCausalLM",
            honoured=_QWEN_WINDOW | _EXPERTS | {"shared_expert_intermediate_size"},
            fixed=MappingProxyType({**_SILU, "qkv_bias": True, "use_sliding_window": False}),
        ),
        "qwen3_moe": Family(
            architecture="Qwen3MoeForCausalLM",
            honoured=(_QWEN_WINDOW - {"layer_types"}) | _EXPERTS | {"head_dim"},
            fixed=MappingProxyType({**_SILU, "attention_bias": False}),
        ),
        "gemma3_text": Family(
            architecture="Gemma3ForCausalLM",
            honoured=frozenset(
                [
                    "head_dim",
                    "attention_bias",
                    "sliding_window",
                    "layer_types",
                    "sliding_window_pattern",
                    "_sliding_window_pattern",
                    "query_pre_attn_scalar",
                    "rope_local_base_freq",
                ]
            ),
            fixed=MappingProxyType({"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh"}),
            rope_by_layer_type=True,
            mixed_windows=True,
        ),
    }
)
"""By `model_type` in config.json."""


def check_architecture(model: Mapping[str, Any], folder: Path) -> Family:
    """Returns the family of a model, and refuses what training or serving would compute differently.

    Args:
        model: content of config.json.
        folder: of the model, for messages.

    Raises:
        UserError: the family is not known, or a field has a value that is not honoured; names the field.
    """
    kind = str(model.get("model_type"))
    if kind == "gemma3":
        raise UserError(
            f"the model in {folder} is a gemma3, which reads images too, and only text models can be trained: take a "
            f"text-only Gemma 3 (270M or 1B), or load the state of model.language_model, as transformers' "
            f"Gemma3ForConditionalGeneration has it, into the model of a Gemma3ForCausalLM with its text_config, and "
            f"write that with save_pretrained."
        )
    if kind not in FAMILIES:
        raise UserError(
            f"the model in {folder} is of type {kind}, which is not supported: start from one of {', '.join(FAMILIES)}."
        )
    family = FAMILIES[kind]
    architectures = model.get("architectures") or [family.architecture]
    if family.architecture not in architectures:
        raise UserError(
            f"the model in {folder} is a {', '.join(map(str, architectures))} (architectures in its config.json), but "
            f"a causal LM is needed: start from a folder whose architecture is {family.architecture}."
        )
    for name, value in model.items():
        if not _is_implied(name, value, model):
            _check_field(name, value, kind, family, folder)
    _check_rope(model, kind, family, folder)
    _check_windows(model, kind, family, folder)
    return family


def require_unquantized(model: Mapping[str, Any], folder: Path) -> None:
    """Refuses a quantized model, which can be served but not trained.

    Raises:
        UserError: config.json has a quantization_config.
    """
    if model.get("quantization_config"):
        method = model["quantization_config"]
        method = method.get("quant_method", "unknown method") if isinstance(method, Mapping) else method
        raise UserError(
            f"the model in {folder} is quantized ({method}, quantization_config in its config.json), and quantized "
            f"weights cannot be trained: start from its unquantized weights."
        )


def _check_field(name: str, value: Any, kind: str, family: Family, folder: Path) -> None:
    if name in family.fixed:
        if value is not None and value != family.fixed[name]:
            raise UserError(
                f"the model in {folder} has {name}={value!r} in its config.json, but for {kind} only "
                f"{family.fixed[name]!r} is computed alike in training and serving: start from another model."
            )
        return
    known = name in _SIZES or name in _WITHOUT_EFFECT or name in family.honoured
    note = name.startswith(("_", "unsloth")) or name.endswith("_token_id")
    if known or note or _is_neutral(name, value):
        return
    raise UserError(
        f"the model in {folder} has {name}={_short(value)} in its config.json, which is not honoured for {kind}, so "
        f"another model than this would be trained: start from a model without it, or remove the field if the model "
        f"does not depend on it."
    )


def _is_implied(name: str, value: Any, model: Mapping[str, Any]) -> bool:
    """Whether a field only states what holds without it."""
    if name == "head_dim":
        heads = model.get("num_attention_heads")
        return bool(value and heads and value * heads == model.get("hidden_size"))
    return name == "layer_types" and bool(value) and set(value) == {"full_attention"}


def _is_neutral(name: str, value: Any) -> bool:
    """Whether a field says that its feature is off."""
    if name in ("is_causal", "partial_rotary_factor"):
        return bool(value is None or value == 1)
    return not value


def _check_rope(model: Mapping[str, Any], kind: str, family: Family, folder: Path) -> None:
    for key in ("rope_parameters", "rope_scaling"):
        rope = model.get(key) or {}
        if not isinstance(rope, Mapping):
            raise UserError(f"{key} in the config.json of {folder} is {_short(rope)}: it must be an object or null.")
        nested = {name: value for name, value in rope.items() if name in _LAYER_TYPES}
        if nested and not family.rope_by_layer_type:
            raise UserError(
                f"the model in {folder} has a rotary embedding for each layer type ({key} in its config.json), which "
                f"is not honoured for {kind}: start from a model with one rotary embedding."
            )
        for parameters in nested.values() if nested else [rope]:
            _check_rotary(parameters or {}, key, folder)


def _check_rotary(parameters: Mapping[str, Any], key: str, folder: Path) -> None:
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind not in _ROPE_FIELDS:
        # dynamic and longrope choose frequencies by the longest document of a row: packing would change the model.
        raise UserError(
            f"the model in {folder} has a rotary embedding of type {kind!r} ({key} in its config.json), which is not "
            f"honoured in packed training: start from a model whose type is one of {', '.join(_ROPE_FIELDS)}."
        )
    for name, value in parameters.items():
        known = name in _ROPE_FIELDS[kind] or name in ("rope_type", "type", "rope_theta")
        if not known and not _is_neutral(name, value):
            raise UserError(
                f"the model in {folder} has {name}={_short(value)} in {key} of its config.json, which is not honoured "
                f"for a rotary embedding of type {kind!r}: start from a model without it."
            )


def _check_windows(model: Mapping[str, Any], kind: str, family: Family, folder: Path) -> None:
    if "layer_types" not in family.honoured:
        return
    types = set(model.get("layer_types") or ())
    if unknown := sorted(map(str, types - set(_LAYER_TYPES))):
        raise UserError(
            f"the model in {folder} has layers of type {', '.join(unknown)} (layer_types in its config.json), but "
            f"only {' and '.join(_LAYER_TYPES)} are honoured: start from another model."
        )
    if family.mixed_windows or not model.get("use_sliding_window"):
        return
    if not types:
        first, layers = model.get("max_window_layers", 28), model.get("num_hidden_layers", 0)
        types = set(_LAYER_TYPES) if 0 < first < layers else {_LAYER_TYPES[0] if first <= 0 else _LAYER_TYPES[1]}
    if len(types) > 1:
        raise UserError(
            f"the model in {folder} has a sliding window on some of its layers only (use_sliding_window, "
            f"max_window_layers or layer_types in its config.json), which vLLM does not serve for {kind}: set "
            f"use_sliding_window to false if the context fits the window, or start from another model."
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

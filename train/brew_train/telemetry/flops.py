"""Parameters and FLOPs per token of a model, and model FLOPs utilisation (MFU).

MFU counts the arithmetic of the model only (PaLM, arXiv:2204.02311, appendix B). The second forward pass of activation
checkpointing takes time, but does not count.
"""

import re
from collections import Counter
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

__all__ = ["ModelSize", "layer_windows", "mfu", "peak_flops"]

# Dense bf16 FLOP/s of tensor cores at boost clock, from NVIDIA's data sheets; their figures "with sparsity" are twice
# these. The first name that is part of the device name (as whole words) is used.
PEAKS = (
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),  # SXM: "NVIDIA H100 80GB HBM3"
    ("H200", 989e12),
    ("GH200", 989e12),
    ("H800", 989e12),
    ("H20", 148e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
)
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")  # experts per layer in Mixtral, Qwen, DeepSeek


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Sizes of a decoder that determine its FLOPs."""

    total: int  # number of parameters
    active: int  # number of parameters per token: of the experts, only those that the token is routed to
    matmul: int  # number of active parameters in matrix products, without norms and the look-up of embeddings
    attention: int  # query heads · head size, summed over the layers
    windowed: tuple[tuple[int, int], ...] = ()  # sliding windows in tokens, each with its layers' part of `attention`

    @classmethod
    def of(cls, lm: PreTrainedModel) -> "ModelSize":
        """Returns the size of `lm`, which may be on the meta device or sharded."""
        config = lm.config
        share = 1.0  # active share of the experts' parameters
        experts = next((n for key in EXPERTS if (n := getattr(config, key, None))), None)
        if experts and getattr(config, "num_experts_per_tok", None):
            share = config.num_experts_per_tok / experts
        lookup_weight = lm.get_input_embeddings().weight
        if lookup_weight is lm.get_output_embeddings().weight:
            lookup_weight = None  # tied: the same matrix is also the head
        total, active, matmul = 0, 0.0, 0.0
        for name, parameter in lm.named_parameters():
            size = parameter.numel()
            active_size = size * share if ".experts." in name else float(size)
            total += size
            active += active_size
            if parameter.ndim > 1 and parameter is not lookup_weight:
                matmul += active_size
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        width = config.num_attention_heads * head_size
        windows = Counter(window for window in layer_windows(config) if window is not None)
        return cls(
            total=total,
            active=round(active),
            matmul=round(matmul),
            attention=config.num_hidden_layers * width,
            windowed=tuple((window, layers * width) for window, layers in sorted(windows.items())),
        )

    @classmethod
    def of_config(cls, config: PretrainedConfig) -> "ModelSize":
        """Returns the size of the causal LM that `config` describes, without allocating its weights."""
        with torch.device("meta"):
            return cls.of(AutoModelForCausalLM.from_config(config))

    def flops_per_token(self, document_length: float, *, training: bool = True) -> float:
        """Returns the model FLOPs of one token.

        A matrix product costs 2 FLOPs per parameter and token in the forward pass, and twice that in the backward
        pass. Attention multiplies each query with the keys up to its position, on average half of its document, and the
        scores with as many values: 2 · 2 · `attention` · length / 2, and twice that in the backward pass. The scores
        that a kernel computes again in the backward pass do not count. With a sliding window of w < length tokens, the
        mean number of keys is w - w² / (2 · length) instead of length / 2.

        Args:
            document_length: tokens in the document that a token belongs to, mean over *tokens*: the sum of the squared
                lengths divided by the sum of the lengths.
            training: True: forward and backward pass; False: forward pass only.
        """
        forward = 2.0 * self.matmul + 2.0 * self.attention * document_length
        for window, attention in self.windowed:
            if window < document_length:
                keys = window - window**2 / (2.0 * document_length)
                forward += 4.0 * attention * (keys - document_length / 2.0)
        return 3.0 * forward if training else forward


def layer_windows(config: PretrainedConfig) -> list[int | None]:
    """Returns the sliding window of each layer in tokens; None for a layer that attends to all tokens before."""
    window = getattr(config, "sliding_window", None) or None
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in types]


def peak_flops(device_name: str) -> float | None:
    """Returns the dense bf16 FLOP/s of a GPU by `torch.cuda.get_device_name`; None for an unknown device."""
    return next((peak for name, peak in PEAKS if re.search(rf"\b{name}\b", device_name)), None)


def mfu(*, tokens_per_second: float, flops_per_token: float, peak: float | None, devices: int) -> float | None:
    """Returns the model FLOPs utilisation: model FLOP/s divided by the peak FLOP/s of the devices.

    Args:
        tokens_per_second: tokens of all devices together, without padding.
        flops_per_token: model FLOPs of one token, from `ModelSize.flops_per_token`.
        peak: peak FLOP/s of one device; None if it is unknown, as for a CPU.
        devices: number of devices.

    Returns:
        A ratio between 0 and 1, or None without a peak.
    """
    return None if peak is None else tokens_per_second * flops_per_token / (peak * devices)

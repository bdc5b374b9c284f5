"""Parameters and FLOPs per token of a model, and model FLOPs utilisation (MFU).

MFU counts the model's own arithmetic only (PaLM, arXiv:2204.02311, appendix B): activation checkpointing runs the
forward pass once more, which takes time and does not count.
"""

import re
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

__all__ = ["ModelSize", "mfu", "peak_flops"]

# Dense bf16 FLOP/s of tensor cores at boost clock, from NVIDIA's data sheets, where figures "with sparsity" are twice
# these. Matched as whole words of a device's name, the first one counts.
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
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")  # of Mixtral, Qwen, DeepSeek: experts per layer


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The sizes of a decoder that its arithmetic depends on."""

    total: int  # parameters
    active: int  # parameters that one token meets: of the experts, only the share that it is routed to
    matmul: int  # of the active ones, those in matrix products: neither norms nor the look-up of embeddings
    attention: int  # query heads · head size, summed over the layers

    @classmethod
    def of(cls, lm: PreTrainedModel) -> "ModelSize":
        """The size of `lm`, which may be on the meta device, or sharded (FSDP2's parameters know their whole size)."""
        config = lm.config
        share = 1.0  # of the experts' parameters
        experts = next((n for key in EXPERTS if (n := getattr(config, key, None))), None)
        if experts and getattr(config, "num_experts_per_tok", None):
            share = config.num_experts_per_tok / experts
        looked_up = lm.get_input_embeddings().weight
        if looked_up is lm.get_output_embeddings().weight:
            looked_up = None  # tied: the same matrix is also the head
        total, active, matmul = 0, 0.0, 0.0
        for name, parameter in lm.named_parameters():
            size = parameter.numel()
            met = size * share if ".experts." in name else float(size)
            total += size
            active += met
            if parameter.ndim > 1 and parameter is not looked_up:
                matmul += met
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            total=total,
            active=round(active),
            matmul=round(matmul),
            attention=config.num_hidden_layers * config.num_attention_heads * head_size,
        )

    @classmethod
    def of_config(cls, config: PretrainedConfig) -> "ModelSize":
        """The size of the causal LM that `config` describes, without making its weights."""
        with torch.device("meta"):
            return cls.of(AutoModelForCausalLM.from_config(config))

    def flops_per_token(self, document_length: float, *, training: bool = True) -> float:
        """Model FLOPs of one token.

        A matrix product costs 2 FLOPs per parameter and token in the forward pass, and twice that in the backward
        pass. Attention multiplies each query with the keys up to itself, half of its document on average, and the
        scores with as many values: 2 · 2 · `attention` · length / 2, and again twice that in the backward pass (a
        kernel that makes the scores again in the backward pass does more, which does not count).

        Args:
            document_length: tokens in the document that a token belongs to, mean over *tokens* (the sum of the
                squared lengths over the sum of the lengths): long documents cost more than their number says.
            training: forward and backward; False: the forward pass alone.
        """
        forward = 2.0 * self.matmul + 2.0 * self.attention * document_length
        return 3.0 * forward if training else forward


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 FLOP/s of a GPU, from the name that `torch.cuda.get_device_name` gives; None where it is not known."""
    return next((peak for name, peak in PEAKS if re.search(rf"\b{name}\b", device_name)), None)


def mfu(*, tokens_per_second: float, flops_per_token: float, peak: float | None, devices: int) -> float | None:
    """Model FLOPs utilisation: the share of the devices' peak that the model's own arithmetic takes.

    Args:
        tokens_per_second: real tokens of all devices together; padding does not count.
        peak: FLOP/s of one device; None where it is not known, on CPUs above all.

    Returns:
        A share between 0 and 1, or None without a peak.
    """
    return None if peak is None else tokens_per_second * flops_per_token / (peak * devices)

"""Sizes equal the published ones, and FLOPs a count of all matrix products."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PretrainedConfig,
)

from brew_train.telemetry.flops import ModelSize, layer_windows, mfu, peak_flops

from ...tiny_families import WINDOW, make_tiny

MIXTRAL = {"vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [
        # "47B total, 13B active" of Mixtral of Experts (arXiv:2401.04088), to the digits of Mistral's announcements
        (
            MixtralConfig(
                **MIXTRAL, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32
            ),
            46.7e9,
            12.9e9,
        ),
        (
            MixtralConfig(
                **MIXTRAL, hidden_size=6144, intermediate_size=16384, num_hidden_layers=56, num_attention_heads=48
            ),
            141e9,
            39e9,
        ),
        (
            LlamaConfig(
                vocab_size=128256,
                hidden_size=4096,
                intermediate_size=14336,
                num_hidden_layers=32,
                num_attention_heads=32,
                num_key_value_heads=8,
            ),
            8.03e9,
            8.03e9,
        ),
    ],
    ids=["mixtral-8x7b", "mixtral-8x22b", "llama-3-8b"],
)
def test_published_sizes(config: PretrainedConfig, total: float, active: float) -> None:
    size = ModelSize.of_config(config)
    digits = 2 if total == 141e9 else 3  # as many as were published
    assert float(f"{size.total:.{digits}g}") == pytest.approx(float(f"{total:.{digits}g}"))
    assert float(f"{size.active:.{digits}g}") == pytest.approx(float(f"{active:.{digits}g}"))


def test_flops_against_a_count_of_all_products() -> None:
    small = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attn_implementation": "eager",  # its products with the scores are counted; it makes the whole square of them
    }
    tokens = 40
    for lm in (
        LlamaForCausalLM(LlamaConfig(**small)),
        LlamaForCausalLM(LlamaConfig(**small, tie_word_embeddings=True)),
        MixtralForCausalLM(MixtralConfig(**small, num_local_experts=4, num_experts_per_tok=2)),
    ):
        if isinstance(lm, MixtralForCausalLM):
            lm.set_experts_implementation("eager")  # one product per expert; the counter does not count grouped ones
        ids = torch.arange(tokens).unsqueeze(0) % 96
        with FlopCounterMode(display=False) as counter:
            lm(input_ids=ids, use_cache=False).logits.sum().backward()
        size = ModelSize.of(lm)
        scores = 6 * size.attention * tokens  # per token; the causal half that the counted square has on top
        assert counter.get_total_flops() == tokens * (size.flops_per_token(tokens) + scores), type(lm)
        forward = size.flops_per_token(tokens, training=False)
        assert 3 * forward == size.flops_per_token(tokens)


@pytest.mark.parametrize(
    ("model_type", "windows"),
    [
        ("llama", [None] * 3),
        ("mistral", [WINDOW] * 3),
        ("qwen2", [None] * 3),  # its config has a window that is not in use
        ("qwen3_moe", [WINDOW] * 3),
        ("gemma3_text", [WINDOW, None, WINDOW]),
    ],
)
@pytest.mark.parametrize("length", [WINDOW - 1, WINDOW, 60])
def test_layers_with_a_window_count_the_keys_in_it(model_type: str, windows: list[int | None], length: int) -> None:
    lm = make_tiny(model_type)
    assert layer_windows(lm.config) == windows
    size = ModelSize.of(lm)
    width = size.attention / 3
    # a query at position i has min(i + 1, w) keys; the formula counts half of the diagonal
    keys = [sum(min(i + 0.5, length if w is None else w) for i in range(length)) / length for w in windows]
    expected = 2 * size.matmul + sum(4 * width * mean for mean in keys)
    assert size.flops_per_token(length, training=False) == pytest.approx(expected, rel=1e-3)


def test_the_size_of_gemma_3_270m() -> None:
    config = Gemma3TextConfig(
        vocab_size=262_144,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        sliding_window=512,
    )
    size = ModelSize.of_config(config)
    assert (size.total, size.matmul) == (268_098_176, 268_042_240)  # 167,772,160 are embeddings, which are the head too
    assert (size.attention, size.windowed) == (18 * 1024, ((512, 15 * 1024),))


def test_peaks_and_mfu() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA H20") == 148e12
    assert peak_flops("NVIDIA L40") is None  # neither an L4 nor an L40S
    assert peak_flops("NVIDIA GeForce GTX 1050") is None
    assert peak_flops("cpu") is None
    # 1,000 tokens/s of 6 GFLOPs on two devices of 10 TFLOP/s: 6 of 20
    assert mfu(tokens_per_second=1000, flops_per_token=6e9, peak=10e12, devices=2) == pytest.approx(0.3)
    assert mfu(tokens_per_second=1000, flops_per_token=6e9, peak=None, devices=2) is None

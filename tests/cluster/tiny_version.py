"""A model version of 20,000 random parameters, as the export of a training run is."""

from pathlib import Path

from brew_data.prompts.bundle import PromptBundle

__all__ = ["write_tiny_version"]


def write_tiny_version(bundle: PromptBundle, folder: Path, *, seed: int = 1, hidden_size: int = 16) -> None:
    """Write a Mixtral with random weights, and its prompts, into a new folder. vLLM needs a `hidden_size` of 64."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(seed)
    config = MixtralConfig(
        vocab_size=bundle.tokenizer.vocabulary_size, hidden_size=hidden_size, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1,
        max_position_embeddings=bundle.format.context_length, tie_word_embeddings=False,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(folder)
    bundle.save(folder)

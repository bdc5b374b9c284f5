"""Inference engines: the protocol, a registry, vLLM, and a plain PyTorch reference."""

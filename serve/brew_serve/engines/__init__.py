"""How a model is run: the seam, vLLM and plain PyTorch behind it, and what runs inside vLLM's process."""

"""Checks of a Hugging Face model folder: the architecture in config.json, and the headers of the weight files."""

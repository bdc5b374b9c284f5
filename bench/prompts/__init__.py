"""Measures prompts: how much history they show, and the time to render them."""

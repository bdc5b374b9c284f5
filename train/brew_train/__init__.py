"""Trains models on packed bins: model, objectives, optimizers, checkpoints, training loop, launch on Ray Train."""

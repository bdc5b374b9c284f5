"""Baselines of recommender systems, fitted on the same rows with the same cut as a model."""

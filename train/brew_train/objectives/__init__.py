"""Defines the training objectives, one class each."""

"""Ranking with one loaded model version: admission, scoring, text generation."""

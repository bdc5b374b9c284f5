"""Ranking with one loaded version: admission, scoring, text generation."""

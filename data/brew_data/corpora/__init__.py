"""Builds training corpora: texts for CPT, conversations, preference pairs, and answers of a served model."""

"""The pipeline on an open base model, Gemma 3 270M (`make demo-base`)."""

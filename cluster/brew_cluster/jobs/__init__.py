"""The jobs that the commands run: data, training, benchmark, registry, serving, scoring, demo."""

"""The jobs that the commands run: data, training, serving, scoring, demo."""

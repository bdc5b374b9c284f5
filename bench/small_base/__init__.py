"""The small base model that ships: its data, its training, and what it learned (`make base-model`)."""

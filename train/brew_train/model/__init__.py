"""The model: construction, attention, sharding, base models, initial weights, vocabulary."""

"""The model: construction, attention, sharding, initial weights."""

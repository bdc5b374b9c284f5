"""Capacity planner: memory, speed, goodput and cost of training, and replicas of a service, before GPUs are rented.

Every figure is a closed formula with its source, and a range from an optimistic to a pessimistic set of assumptions.
"""

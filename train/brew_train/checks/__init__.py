"""Training without a cluster: what a step would take, and whether and how fast one GPU computes it."""

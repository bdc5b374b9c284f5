"""Versions of the model on Ray Serve: gateways, rankers, who answers whom, and how the registry is followed."""

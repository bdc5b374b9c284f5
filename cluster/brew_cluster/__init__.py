"""What runs the areas together: the `brew360` command, the demo's road, the local cluster."""

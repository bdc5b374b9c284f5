"""From packed bins to averaged weights: model, losses, checkpoints, the loop, and its launch on Ray Train."""

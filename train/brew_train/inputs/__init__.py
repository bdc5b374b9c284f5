"""From packed bins to batches."""

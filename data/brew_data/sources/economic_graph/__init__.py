"""The source `economic_graph`: a generated professional network."""

"""The source `synthetic`: a generated economic graph."""

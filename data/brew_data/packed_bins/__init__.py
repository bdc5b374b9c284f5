"""Packed bins: schema, packing, files."""

"""The versioned model registry on an object store."""

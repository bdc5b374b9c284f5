"""Object stores with a common interface."""

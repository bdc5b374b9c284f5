"""Sources: where tables come from."""

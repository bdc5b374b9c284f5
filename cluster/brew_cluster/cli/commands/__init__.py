"""One module for each command of `brew360`."""

"""Terminal output: progress of a run's phases, and the log."""

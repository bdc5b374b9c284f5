"""What people see of a run: rows, events, goodput, and where they go."""

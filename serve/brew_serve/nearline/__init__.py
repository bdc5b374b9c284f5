"""Rankings that need not be instant: events in, work on a queue, rankings to read."""

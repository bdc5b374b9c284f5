"""Records metrics and events of a training run, and sends them to sinks."""

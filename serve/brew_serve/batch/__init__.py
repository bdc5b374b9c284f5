"""Tables of requests, scored by the engine that serves."""

"""From tables to token ids: sources, task suites, the prompt compiler, packing, and the Ray Data pipelines."""

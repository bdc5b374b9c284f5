"""Ray Data pipelines from tables to training documents and scoring requests."""

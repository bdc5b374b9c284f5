"""What every area stands on: errors, configuration, object storage, the model registry, metrics, telemetry."""

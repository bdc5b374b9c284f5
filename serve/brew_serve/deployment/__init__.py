"""Ray Serve deployments: gateways, replicas, and the controller of versions."""

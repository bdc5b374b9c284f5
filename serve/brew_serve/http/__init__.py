"""The HTTP application: middleware, authentication, quotas, errors, routes."""

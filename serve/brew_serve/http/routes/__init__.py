"""The routes of the HTTP application, one module per protocol."""

"""Checks that a port is free, and finds a free port."""

import socket

from brew_platform.errors import UserError

__all__ = ["free_port", "require_free_port"]


def require_free_port(port: int, host: str = "127.0.0.1") -> None:
    """Check that `host`:`port` is free.

    Raises:
        UserError: The port is in use, or this user has no permission to listen on it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"port {port} cannot be used ({error.strerror}). Stop the process that listens on it, or "
                f"choose another --port."
            ) from error


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of `host` that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])

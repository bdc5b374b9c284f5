"""Checks that a port is free before a service starts."""

import socket

from brew_platform.errors import UserError

__all__ = ["free_port", "require_free_port"]


def require_free_port(port: int, host: str = "127.0.0.1") -> None:
    """Checks that nothing listens on `host`:`port`.

    Raises:
        UserError: the port is in use, or this user may not listen on it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"port {port} cannot be used ({error.strerror}): stop what listens there, or choose another --port."
            ) from error


def free_port(host: str = "127.0.0.1") -> int:
    """A port of `host` that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])

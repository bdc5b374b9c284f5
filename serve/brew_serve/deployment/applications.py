"""Finds and deletes the applications of the service on a Ray Serve that may have others' applications."""

import re

from ray import serve
from ray.serve.context import _get_global_client

from brew_platform.errors import UserError
from brew_platform.ports import require_free_port
from brew_serve.deployment.version_controller import APP_NAME

__all__ = ["delete_applications", "find_serve", "running_applications"]

_OURS = re.compile(rf"{re.escape(APP_NAME)}(-nearline)?(-v\d+)?")
_ROUNDS = 3  # of deletion: until the version controller has ended, it can start an application again


def running_applications() -> list[str]:
    """Return the names of the service's applications, the gateway's first; other applications are left out."""
    return sorted(name for name in serve.status().applications if _OURS.fullmatch(name))


def find_serve(port: int, host: str) -> bool:
    """Return whether Serve runs on the connected Ray, and check that it, or a new one, can listen on `host`:`port`.

    Raises:
        UserError: The port is in use, Serve listens on another address, or it has the service's applications already.
    """
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        require_free_port(port, host)
        return False
    if names := running_applications():
        raise UserError(
            f"the service runs already on this cluster ({', '.join(names)}), and a second one would replace it. Stop "
            f"it with `brew360 serve down`, or use another cluster."
        )
    http = client.http_config
    if (http.host, http.port) != (host, port):
        raise UserError(
            f"the Ray Serve of this cluster listens on {http.host}:{http.port} already, and it has one address for all "
            f"applications. Set host={http.host} and port={http.port}, or use another cluster."
        )
    return True


def delete_applications(*, wait: bool = True) -> list[str]:
    """Delete the service's applications; accepted requests are completed first. Serve itself keeps running.

    Args:
        wait: Return when they are gone; otherwise return at once.

    Returns:
        The names of the applications.

    Raises:
        TimeoutError: An application still has requests after 60 s; its deletion continues.
    """
    deleted: list[str] = []
    for _ in range(_ROUNDS):
        names = running_applications()
        deleted += [name for name in names if name not in deleted]
        for name in names:
            serve.delete(name, _blocking=False)
        if not wait or not names:
            break
        for name in names:
            serve.delete(name)
    return deleted

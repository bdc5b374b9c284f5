"""The job gateway of a cluster on one machine: on loopback, with a key for the user who started the cluster."""

import os
import secrets
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from brew_cluster.gateway.launcher import BREW360
from brew_platform.errors import BrewError

__all__ = ["LocalGateway", "start_gateway"]

_START_SECONDS = 90.0
_NAME = "local"  # of the ledger and the team; another gateway on the same cluster has another name


@dataclass(frozen=True, kw_only=True)
class LocalGateway:
    """A job gateway that runs on this machine.

    Attributes:
        url: For BREW360_JOBS_URL.
        key_path: File with the API key of the only team, for BREW360_API_KEY.
    """

    url: str
    key_path: Path


def start_gateway(folder: Path, *, jobs_url: str, cpus: int) -> LocalGateway:
    """Start a gateway, which outlives this process, and wait until it answers.

    Args:
        folder: Receives the ledger, the keys and the log; it does not exist.
        jobs_url: Of Ray Jobs; the environment has the token.
        cpus: CPUs that jobs can use together.

    Raises:
        BrewError: The gateway did not start.
    """
    import httpx

    from brew_platform.identity.keys import create_key
    from brew_platform.ports import free_port

    folder.mkdir(mode=0o700)
    key = create_key(folder / "keys.yaml", _NAME, scopes={"jobs", "admin"})
    for name, text in (("key", key), ("signing_key", secrets.token_hex(32))):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text)
    url = f"http://127.0.0.1:{(port := free_port())}"
    settings = {
        "name": _NAME, "store": folder / "ledger", "keys_path": folder / "keys.yaml", "cpus": cpus, "gpus": 0,
        "signing_key_path": folder / "signing_key", "log_path": folder / "gateway.log", "ray_address": jobs_url,
        "port": port,
    }  # fmt: skip
    output = folder / "output.log"
    with output.open("w") as file:
        process = subprocess.Popen(
            [*BREW360, "jobs", "serve", *(f"{setting}={value}" for setting, value in settings.items())],
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=5, trust_env=False).is_success:
                return LocalGateway(url=url, key_path=folder / "key")
        except httpx.HTTPError:
            time.sleep(0.2)
    raise BrewError(f"the job gateway did not start: {output.read_text()[-400:].strip()} (its log is in {folder}).")

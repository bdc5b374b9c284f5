"""S3 servers for tests: moto in this process, and a real Ceph RGW where it is installed."""

import logging
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest

__all__ = ["make_bucket", "moto_server", "rgw_server", "s3_environment"]

CEPH = Path(__file__).parent / "ceph-rgw"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def moto_server() -> Iterator[dict[str, str]]:
    """Start moto's S3 server in a thread; yield the variables of the environment that name it."""
    server = pytest.importorskip("moto.server", reason="moto is not installed: renew .venv with `make setup`")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        host, port = running.get_host_and_port()
        yield ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    finally:
        running.stop()


@contextmanager
def rgw_server(folder: Path) -> Iterator[dict[str, str]]:
    """Start a Ceph RGW whose files are in `folder`; yield the variables of the environment that name it."""
    started = subprocess.run([CEPH, "start", folder], capture_output=True, text=True, timeout=300)
    try:
        if started.returncode == 3:
            pytest.skip(started.stderr.strip())
        assert started.returncode == 0, started.stderr
        yield ENVIRONMENT | dict(line.split("=", 1) for line in started.stdout.split())
    finally:
        subprocess.run([CEPH, "stop", folder], check=True, timeout=60)


@contextmanager
def s3_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set the variables of the environment that name an S3 server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@cache
def _client(endpoint: str, key: str, secret: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1"
    )


def make_bucket(name: str, variables: Mapping[str, str]) -> None:
    """Create a bucket on the server that `variables` name."""
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    _client(*(variables[name] for name in names)).create_bucket(Bucket=name)

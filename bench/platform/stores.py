"""The stores of the benchmark: a folder, moto, and a Ceph RGW, each with a proxy that can damage requests."""

import importlib.util
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from brew_platform.errors import StorageError, UserError
from brew_platform.ports import free_port

__all__ = ["STORES", "BenchStore", "HttpFault", "open_bench_store"]

STORES = ("folder", "moto", "rgw")
TESTS = Path(__file__).parents[2] / "tests"  # has the proxy and the installation of Ceph RGW
_KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
_BUCKET = "bench"
_FORK = multiprocessing.get_context("fork")


class HttpFault:
    """A fault of one of the next requests, set by the parent process and injected by the process of the proxy."""

    kinds = ("http-refuse", "http-lose", "http-cut", "http-409", "http-500", "http-500-after")

    def __init__(self) -> None:
        self._left = _FORK.Value("i", -1)  # requests until the fault; below 0: none
        self._kind = _FORK.Value("i", 0)

    def arm(self, requests: int, kind: str) -> None:
        """Damage a request after `requests` others."""
        self._kind.value, self._left.value = self.kinds.index(kind), requests

    def disarm(self) -> bool:
        """Return whether the fault happened, and damage no request from now on."""
        with self._left.get_lock():
            happened = self._left.value < 0
            self._left.value = -1
        return happened

    def due(self) -> str | None:
        """Count a request; return the fault that it gets."""
        with self._left.get_lock():
            if self._left.value < 0:
                return None
            self._left.value -= 1
            return self.kinds[self._kind.value] if self._left.value < 0 else None


@dataclass
class BenchStore:
    """A running store."""

    name: str
    url: str
    direct: str | None = None  # endpoint without the proxy
    proxied: str | None = None  # endpoint with the proxy; None: there is none
    fault: HttpFault = field(default_factory=HttpFault)

    def use_proxy(self, proxy: bool) -> None:
        """Choose the endpoint of stores that are opened from now on."""
        endpoint = self.proxied if proxy else self.direct
        if endpoint is not None:
            os.environ["AWS_ENDPOINT_URL"] = endpoint


@contextmanager
def open_bench_store(name: str, folder: Path) -> Iterator[BenchStore]:
    """Start a store, empty.

    Args:
        name: One of STORES.
        folder: Where the store `folder` keeps its files.

    Raises:
        UserError: The store is not installed.
    """
    if name == "folder":
        yield BenchStore("folder", str(folder / "store"))
        return
    start = _moto if name == "moto" else _rgw
    before = dict(os.environ)
    try:
        with start() as variables:
            os.environ.update({"AWS_EC2_METADATA_DISABLED": "true", **variables})
            _create_bucket()
            direct, fault = os.environ["AWS_ENDPOINT_URL"], HttpFault()
            with _proxy(direct, fault) as proxied:
                yield BenchStore(name, f"s3://{_BUCKET}/{name}", direct, proxied, fault)
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _moto() -> Iterator[dict[str, str]]:
    if importlib.util.find_spec("moto") is None:
        raise UserError("moto is not installed: run `make setup` again.")
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/moto-api/")
        yield {**_KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    finally:
        process.kill()
        process.wait()


@contextmanager
def _rgw() -> Iterator[dict[str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="rgw", dir="/tmp"))  # sockets need a short path
    try:
        started = subprocess.run([TESTS / "ceph-rgw", "start", folder], capture_output=True, text=True, timeout=300)
        if started.returncode:
            raise UserError(f"Ceph RGW does not start: {started.stderr.strip() or started.stdout.strip()}")
        yield {**_KEYS, **dict(line.split("=", 1) for line in started.stdout.split())}
    finally:
        subprocess.run([TESTS / "ceph-rgw", "stop", folder], check=False, timeout=60, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def _create_bucket() -> None:
    import boto3

    session = boto3.Session()  # the default session would keep the keys of the store before
    session.client("s3", region_name="us-east-1").create_bucket(Bucket=_BUCKET)


@contextmanager
def _proxy(upstream: str, fault: HttpFault) -> Iterator[str]:
    """Run the proxy of the tests in a process of its own, so that this process has no threads when it forks."""
    receiver, sender = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_serve_proxy, args=(upstream, fault, sender), daemon=True)
    process.start()
    try:
        yield receiver.recv()
    finally:
        process.terminate()
        process.join()


def _serve_proxy(upstream: str, fault: HttpFault, sender: Any) -> None:
    spec = importlib.util.spec_from_file_location("fault_proxy", TESTS / "fault_proxy.py")
    if spec is None or spec.loader is None:
        raise StorageError(f"{TESTS / 'fault_proxy.py'} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fault_proxy"] = module
    spec.loader.exec_module(module)
    faults = {
        "http-refuse": module.Fault(kind="refuse"),
        "http-lose": module.Fault(kind="lose"),
        "http-cut": module.Fault(kind="cut"),
        "http-409": module.Fault(kind="answer", status=409),
        "http-500": module.Fault(kind="answer", status=500),
        "http-500-after": module.Fault(kind="answer", status=500, reaches_server=True),
    }
    with module.fault_proxy(upstream) as proxy:
        proxy.choose = lambda method, path: None if (kind := fault.due()) is None else faults[kind]
        sender.send(proxy.url)
        while True:
            time.sleep(3600)


def _wait(url: str) -> None:
    for _ in range(150):
        try:
            with urlopen(url, timeout=5):  # noqa: S310 - our own address
                return
        except OSError:
            time.sleep(0.2)
    raise StorageError(f"{url} does not answer. Run the benchmark again.")

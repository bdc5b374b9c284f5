"""Starts and stops the HTTP contenders: our service on its own Ray, and vLLM's server.

All run the same model with the same precision and number of cores.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from brew_cluster.ray.local_ray import local_ray
from brew_platform.ports import free_port
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store
from brew_serve.deployment.online_service import AppConfig, build_app, serve_http
from brew_serve.ranking.admission import AdmissionConfig

__all__ = ["VLLM_BEST", "our_service", "vllm_server"]

# The fastest settings of /generative_scoring on CPU: small cache blocks, because prefixes are shared in whole blocks
# only; no compilation, which takes minutes at the start without a measurable gain; no statistics
VLLM_BEST = ["--enable-prefix-caching", "--block-size", "32", "--enforce-eager", "--max-num-seqs", "128",
             "--max-num-batched-tokens", "4096", "--disable-log-stats"]  # fmt: skip
START_SECONDS = 300.0


@contextmanager
def our_service(folder: Path, work: Path) -> Iterator[str]:
    """Publish and promote the version in `folder`, start our service as users do, and yield its URL."""
    store = str(work / "registry")
    registry = Registry(open_store(store), "brew360")
    version = registry.publish(folder, signature={}, lineage={}, metrics={}, author="bench")
    registry.promote(version.number, force=True, reason="bench", author="bench")
    config = AppConfig(
        registry_url=store,
        cache_folder=str(work / "versions"),
        admission=AdmissionConfig(),
    )
    with local_ray(detached=False, logs=work / "ray-logs"):
        yield serve_http(build_app(config), port=free_port())


@contextmanager
def vllm_server(folder: Path, arguments: list[str], log: Path) -> Iterator[str]:
    """Start `vllm serve` on a model folder, in float32, and yield its URL.

    Args:
        folder: The model.
        arguments: Additional command line arguments.
        log: The file for the server's output.

    Raises:
        RuntimeError: The server did not start; the message has the end of its output.
    """
    port = free_port()
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        "OMP_WAIT_POLICY": "PASSIVE",  # an idle server must not use a core; ours has it too
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; four times ours
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    # The module of `vllm serve`. The command itself needs a package named vllm, but the package here is vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port),
               "--host", "127.0.0.1", "--dtype", "float32", *arguments]  # fmt: skip
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, log)
            yield url
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            with suppress(ProcessLookupError):  # the engine process, if it is still running
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/health", timeout=2, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise RuntimeError(f"vllm serve did not start:\n{log.read_text()[-3000:]}")

"""The process of a gateway: it ends in order when it is stopped, and says why it cannot start."""

import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from brew_cluster.gateway.config import GatewayConfig
from brew_cluster.gateway.server import run_gateway
from brew_platform.ports import free_port


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_gateway_in_order(number: signal.Signals, keys: dict[str, str], tmp_path: Path) -> None:
    key = tmp_path / "signing_key"
    key.write_text("0" * 64)
    port = free_port()
    config = GatewayConfig(
        store=str(tmp_path / "jobs"), keys_path=str(tmp_path / "keys.yaml"), signing_key_path=str(key), port=port,
        ray_address="http://127.0.0.1:1", poll_seconds=0.05,
    )  # fmt: skip
    answers: list[int] = []

    def stop(address: str) -> None:
        deadline = time.monotonic() + 20
        while not answers and time.monotonic() < deadline:
            try:
                answers.append(httpx.get(f"{address}/health", trust_env=False).status_code)
            except httpx.ConnectError:
                time.sleep(0.01)
        os.kill(os.getpid(), number)

    run_gateway(config, on_ready=lambda address: threading.Thread(target=stop, args=(address,), daemon=True).start())
    assert answers == [200]
    assert not any(thread.name == "job controller" for thread in threading.enumerate())

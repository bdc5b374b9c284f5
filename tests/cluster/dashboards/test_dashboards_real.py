"""Prometheus on the metrics of the product: every panel has data, no alert fires, a browser draws the overview."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from brew_cluster.dashboards.boards import DASHBOARDS
from brew_cluster.dashboards.check import query_panels
from brew_cluster.dashboards.config import DashboardsConfig
from brew_cluster.dashboards.programs import prometheus_command, running
from brew_cluster.dashboards.render import write_dashboards
from brew_platform.ports import free_port

from .product_metrics import Product

pytestmark = pytest.mark.real

CHROMIUM = Path(__file__).parents[2] / "chromium"
PANELS = [f"{dashboard.name}/{panel.title}" for dashboard in DASHBOARDS for panel in dashboard.panels]


@contextmanager
def exporter(product: Product) -> Iterator[str]:
    """Serve the metrics of the product; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = product.text().encode()
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def draw(url: str, *arguments: str) -> str:
    """Return the document of a page after its scripts have run."""
    done = subprocess.run(
        [str(CHROMIUM), "--dump-dom", "--virtual-time-budget=20000", *arguments, url],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def url(prometheus: Path, product: Product, config: DashboardsConfig) -> Iterator[str]:
    """The address of a Prometheus that has the metrics of the product."""
    with exporter(product) as service:
        config = replace(config, service=service, port=free_port(), interval_seconds=1.0)
        write_dashboards(config)
        url = f"http://127.0.0.1:{config.port}"
        command = prometheus_command(prometheus, config)
        log = Path(config.folder) / "log"
        with running(command, ready=f"{url}/-/ready", port=config.port, log=log):
            yield url


def test_every_panel_has_data_and_a_browser_draws_it(url: str) -> None:
    end, empty = time.monotonic() + 60, ["not read yet"]
    while empty and time.monotonic() < end:
        time.sleep(1)
        results = query_panels(url, DASHBOARDS)
        assert [result for result in results if result.problem] == []
        empty = [f"{result.panel}: {result.expression}" for result in results if not result.series]
    assert empty == []
    alerts = httpx.get(f"{url}/api/v1/alerts", trust_env=False).json()["data"]["alerts"]
    assert [alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"] == []
    picture = os.environ.get("BREW360_TEST_PICTURE")
    document = draw(
        f"{url}/consoles/overview.html?range=900",
        *([f"--screenshot={picture}", "--window-size=1400,2600"] if picture else []),
    )
    states = dict(re.findall(r'<figure data-panel="([^"]+)" data-state="(\w+)"', document))
    assert states == dict.fromkeys(PANELS, "drawn")
    assert 'id="alerts" data-state="drawn"' in document
    assert "feed spring" in document, "legends show the labels of the series"
    assert document.count("<path") >= len(PANELS)


def test_the_overview_says_what_has_no_data_and_which_alerts_fire(prometheus: Path, config: DashboardsConfig) -> None:
    config = replace(config, service=None, port=free_port(), interval_seconds=1.0)
    write_dashboards(config)
    rules: Any = Path(config.folder) / "rules" / "jobs.yml"
    rules.write_text(
        "groups: [{name: x, rules: [{alert: Hostile, expr: vector(1), labels: {severity: page}, annotations: "
        "{summary: '<script>document.title=1</script>', runbook: x}}]}]"
    )
    url = f"http://127.0.0.1:{config.port}"
    command = prometheus_command(prometheus, config)
    with running(command, ready=f"{url}/-/ready", port=config.port, log=Path(config.folder) / "log"):
        end = time.monotonic() + 20
        while not httpx.get(f"{url}/api/v1/alerts", trust_env=False).json()["data"]["alerts"]:
            assert time.monotonic() < end
            time.sleep(0.2)
        document = draw(f"{url}/consoles/overview.html")
    states = dict(re.findall(r'<figure data-panel="([^"]+)" data-state="(\w+)"', document))
    assert states == dict.fromkeys(PANELS, "empty")
    assert "Hostile: &lt;script&gt;" in document
    assert "<title>brew360 overview</title>" in document


def test_the_command_runs_prometheus_until_it_is_interrupted(prometheus: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [
        str(Path(sys.executable).parent / "brew360"),
        "dashboards",
        "up",
        f"folder={tmp_path / 'dashboards'}",
        f"port={port}",
        "interval_seconds=1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    assert httpx.get(f"http://127.0.0.1:{port}/-/ready", trust_env=False).status_code == 200, lines
    process.send_signal(2)
    output = "".join(lines) + process.stdout.read()
    process.stdout.close()
    assert process.wait(30) == 130, output
    assert f"http://127.0.0.1:{port}/consoles/overview.html" in output
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/-/ready", trust_env=False)

"""Dashboards as Grafana's JSON, and the commands that start Prometheus and Grafana."""

import json
import os
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from brew_cluster.dashboards import programs, session
from brew_cluster.dashboards.boards import DASHBOARDS
from brew_cluster.dashboards.check import query_panels
from brew_cluster.dashboards.config import DashboardsConfig
from brew_cluster.dashboards.grafana import dashboard_document
from brew_cluster.dashboards.programs import find_program, grafana_command, install_prometheus, running
from brew_cluster.dashboards.render import render_dashboards
from brew_cluster.dashboards.session import check_dashboards, run_dashboards
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import BrewError, UserError
from brew_platform.ports import free_port

TEXT, NUMBER = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}


def closed(**fields: object) -> dict[str, object]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


SOURCE = closed(type={"const": "prometheus"}, uid={"const": "${source}"})
TARGET = closed(refId={"pattern": "^[A-Z]$"}, datasource=SOURCE, expr=TEXT, legendFormat=TEXT, range={"const": True})
PANEL = closed(
    id={"type": "integer", "minimum": 1},
    type={"const": "timeseries"},
    title=TEXT,
    description={"type": "string", "pattern": r"[.]$"},
    datasource=SOURCE,
    gridPos=closed(x={"enum": [0, 12]}, y=NUMBER, w={"const": 12}, h=NUMBER),
    fieldConfig=closed(defaults={"type": "object", "required": ["unit", "custom"]}, overrides={"const": []}),
    options=closed(legend={"type": "object"}, tooltip={"type": "object"}),
    targets={"type": "array", "items": TARGET, "minItems": 1},
)
# The fields of Grafana's dashboard schema that we use; the whole documents were also read by its foundation SDK.
DASHBOARD = closed(
    uid={"pattern": "^[a-z0-9-]{1,40}$"},
    title=TEXT,
    tags={"const": ["brew360"]},
    schemaVersion={"const": 39},
    version=NUMBER,
    editable={"const": False},
    graphTooltip={"enum": [0, 1, 2]},
    timezone=TEXT,
    refresh={"pattern": r"^\d+s$"},
    time=closed(**{"from": TEXT, "to": TEXT}),
    links={"type": "array"},
    templating={"type": "object"},
    panels={"type": "array", "items": PANEL},
)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.name)
def test_documents_have_the_form_that_grafana_reads(dashboard: object, config: DashboardsConfig) -> None:
    rendered = render_dashboards(config)[f"grafana/dashboards/{dashboard.name}.json"]
    document = json.loads(rendered)
    jsonschema.validate(document, DASHBOARD)
    ids = [panel["id"] for panel in document["panels"]]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in document["panels"]]
    titles = [panel["title"] for panel in document["panels"]]
    assert len(set(ids)) == len(set(places)) == len(set(titles)) == len(dashboard.panels)
    assert dashboard_document(dashboard) == document, "the same content has the same version"


def test_provisioning_names_the_source_of_the_dashboards(config: DashboardsConfig) -> None:
    rendered = render_dashboards(config)
    [source] = yaml.safe_load(rendered["grafana/provisioning/datasources/brew360.yml"])["datasources"]
    [provider] = yaml.safe_load(rendered["grafana/provisioning/dashboards/brew360.yml"])["providers"]
    assert source["url"] == "http://127.0.0.1:9090"
    assert provider["options"]["path"] == str(Path(config.folder) / "grafana" / "dashboards")
    for dashboard in DASHBOARDS:
        [variable] = dashboard_document(dashboard)["templating"]["list"]
        assert variable["current"]["value"] == source["uid"]


def test_kubernetes_gets_the_same_rules_and_dashboards(config: DashboardsConfig) -> None:
    rendered = render_dashboards(config)
    found = list(yaml.safe_load_all(rendered["kubernetes/dashboards.yaml"]))
    names = [item["metadata"]["name"] for item in found]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 63 and name == name.lower() for name in names)
    specs = [item["spec"] for item in found if item["kind"] == "PrometheusRule"]
    files = sorted(name for name in rendered if name.startswith("rules/"))
    assert specs == [yaml.safe_load(rendered[name]) for name in files]
    boards = {}
    for item in found:
        boards |= item.get("data", {})
    assert boards == {f"{board.name}.json": rendered[f"grafana/dashboards/{board.name}.json"] for board in DASHBOARDS}


def program(folder: Path, name: str, code: str) -> Path:
    """Write a Python program."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{code}")
    path.chmod(0o755)
    return path


ANSWERS = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_): ...
port = os.environ.get("GF_SERVER_HTTP_PORT") or next(a for a in sys.argv if "listen" in a).rpartition(":")[2]
open(os.environ["SEEN"], "w").write(repr((sys.argv[1:], os.environ.get("GF_PATHS_PROVISIONING"))))
server = http.server.HTTPServer(("127.0.0.1", int(port)), Handler)
server.handle_request()
"""


def test_grafana_is_started_from_the_path_with_our_files(
    config: DashboardsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert grafana_command(config) is None
    home = tmp_path / "grafana"
    (home / "conf").mkdir(parents=True)
    program(home / "bin", "grafana", ANSWERS)
    monkeypatch.setenv("PATH", str(home / "bin"))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    port = free_port()
    found = grafana_command(DashboardsConfig(folder=config.folder, grafana_port=port))
    assert found is not None
    command, variables = found
    with running(
        command, ready=f"http://127.0.0.1:{port}/api/health", port=port, log=tmp_path / "log", variables=variables
    ):
        seen = (tmp_path / "seen").read_text()
    assert seen == repr((["server", "--homepath", str(home)], f"{Path(config.folder)}/grafana/provisioning"))
    program(home / "bin", "grafana-server", "")
    (home / "bin" / "grafana").unlink()
    assert grafana_command(config)[0][1:] == ["--homepath", str(home)]


@pytest.mark.parametrize(
    ("code", "words"),
    [("raise SystemExit('no config')", "ended with status 1"), ("import time; time.sleep(60)", "ready")],
)
def test_a_server_that_does_not_start_is_reported_with_its_log(
    code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_READY_SECONDS", 0.5 if "sleep" in code else 20.0)
    path, port = program(tmp_path, "server", code), free_port()
    server = running([str(path)], ready=f"http://127.0.0.1:{port}/", port=port, log=tmp_path / "log")
    with pytest.raises(BrewError, match=words) as failure, server:
        pass
    assert str(tmp_path / "log") in str(failure.value)


def test_without_prometheus_the_command_says_how_to_get_it(
    config: DashboardsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="add --install"):
        run_dashboards(config, PlainConsole(), install=False)
    with pytest.raises(UserError, match="no apt-get"):
        run_dashboards(config, PlainConsole(), install=True)


def test_a_package_that_cannot_be_downloaded_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program(tmp_path / "bin", "apt-get", "raise SystemExit('E: Unable to locate package')")
    program(tmp_path / "bin", "dpkg-deb", "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match=r"Unable to locate package.*apt-get update"):
        install_prometheus()
    assert list((tmp_path / "cache" / "brew360").iterdir()) == []


def test_the_package_is_unpacked_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    program(tmp_path / "bin", "apt-get", "open('prometheus_1.deb', 'w')")
    unpack = "import os, sys; f = sys.argv[3] + '/usr/bin'; os.makedirs(f); os.symlink('/bin/true', f + '/promtool')"
    program(tmp_path / "bin", "dpkg-deb", unpack)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_program("promtool") is None
    for _ in range(2):  # also over an earlier one
        folder = install_prometheus()
    assert find_program("promtool") == folder / "usr" / "bin" / "promtool"
    assert [path.name for path in folder.parent.iterdir()] == ["prometheus"]


def test_a_server_that_ends_ends_the_command(
    config: DashboardsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = program(tmp_path / "bin", "prometheus", ANSWERS)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setattr(session, "grafana_command", lambda config: None)
    with pytest.raises(BrewError, match="a server ended"):
        run_dashboards(DashboardsConfig(folder=config.folder, port=free_port()), PlainConsole(), install=False)
    assert "Grafana is not on the PATH" in capsys.readouterr().out


def test_check_reports_refused_queries_and_a_prometheus_that_is_not_there(
    config: DashboardsConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "find_program", lambda name: None)
    check_dashboards(config, PlainConsole(), prometheus=None)
    assert "promtool is not installed" in capsys.readouterr().out
    with pytest.raises(BrewError, match="no Prometheus answers"):
        query_panels(f"http://127.0.0.1:{free_port()}", DASHBOARDS)

"""Rules, alerts and panels: they use metrics that the code exports, and every alert has its runbook."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from brew_cluster.dashboards.boards import DASHBOARDS
from brew_cluster.dashboards.check import check_files
from brew_cluster.dashboards.config import DashboardsConfig, load_dashboards
from brew_cluster.dashboards.render import load_rules, render_dashboards, runbook_of, write_dashboards
from brew_platform.errors import ConfigError

from .alert_cases import CASES, Case
from .product_metrics import Product, metric_names

ROOT = Path(__file__).parents[3]
RUNBOOKS = ROOT / "docs" / "runbooks"
SECTIONS = ["## Symptom", "## Meaning", "## Check", "## Fix"]
WORDS = {"and", "or", "unless", "by", "on", "without", "ignoring", "group_left", "bool", "vector"}


def rules(kind: str) -> list[dict[str, Any]]:
    documents = load_rules(DashboardsConfig()).values()
    return [rule for document in documents for group in document["groups"] for rule in group["rules"] if kind in rule]


def metrics_of(expression: str) -> set[str]:
    """Return the names of the metrics in a PromQL expression."""
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", re.sub(r'"[^"]*"', " ", expression))
    text = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", " ", text)
    names = re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*(?!\w*\s*\()", text)
    return {name for name in names if name not in WORDS and not re.search(rf"\b{re.escape(name)}\s*\(", text)}


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('up{job="x"} == 0', {"up"}),
        ("sum by (le, route) (rate(a_bucket[5m])) > 1e-3 * b:c", {"a_bucket", "b:c"}),
        ('(x{a="y{}z"} == 1) unless on (job) max by (job) (t)', {"x", "t"}),
        ("histogram_quantile(0.99, rate(h[1h:30s])) or vector(0)", {"h"}),
    ],
)
def test_names_of_metrics_are_found(expression: str, names: set[str]) -> None:
    assert metrics_of(expression) == names


def test_every_metric_of_rules_and_panels_is_exported(product: Product) -> None:
    exported = {*metric_names(product.text()), "up"}
    recorded = {rule["record"] for rule in rules("record")}
    expressions = {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules("expr")}
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            for query in panel.queries:
                expressions[f"{dashboard.name}/{panel.title}/{query.legend}"] = query.expression
    unknown = {
        place: missing
        for place, expression in expressions.items()
        if (missing := metrics_of(expression) - exported - recorded)
    }
    assert unknown == {}
    unused = recorded - {name for expression in expressions.values() for name in metrics_of(expression)}
    assert unused == set(), "a recorded metric that nobody reads"


def test_alerts_have_a_severity_a_summary_and_a_runbook() -> None:
    alerts = rules("alert")
    assert len({rule["alert"] for rule in alerts}) == len(alerts) > 20
    for rule in alerts:
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"]["summary"].endswith("."), rule["alert"]
        assert (ROOT / rule["annotations"]["runbook"]).is_file(), rule["alert"]


def test_every_runbook_belongs_to_an_alert_and_has_its_sections() -> None:
    pages = {page.name: page.read_text() for page in RUNBOOKS.glob("*.md") if page.name != "index.md"}
    by_page = {runbook_of(rule["alert"]): rule for rule in rules("alert")}
    assert pages.keys() == by_page.keys()
    index = (RUNBOOKS / "index.md").read_text()
    for name, text in pages.items():
        assert text.startswith(f"# {by_page[name]['alert']}\n"), name
        assert [line for line in text.splitlines() if line.startswith("## ")] == SECTIONS, name
        assert f"({name})" in index, f"the index does not list {name}"


def test_thresholds_and_links_come_from_the_settings() -> None:
    config = DashboardsConfig(latency_seconds=0.25, error_budget=0.01, runbooks="https://wiki/brew360")
    text = render_dashboards(config)["rules/serving.yml"]
    rendered = yaml.safe_load(text)["groups"][1]["rules"]
    by_name = {rule["alert"]: rule for rule in rendered}
    assert by_name["ServingLatencyHigh"]["expr"].endswith("> 0.25")
    assert "14.4 * 0.01" in by_name["ServingErrorBudgetFast"]["expr"]
    assert by_name["ServingDown"]["annotations"]["runbook"] == "https://wiki/brew360/serving-down.md"
    assert "${" not in "".join(render_dashboards(config)[name] for name in ("rules/serving.yml", "rules/jobs.yml"))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("service=localhost:8000", "URL"),
        ("ray=[10.0.0.4]", "HOST:PORT"),
        ("node=[http://x:9100]", "HOST:PORT"),
        ("alertmanagers=[x]", "HOST:PORT"),
        ("error_budget=0", "error_budget"),
        ("interval_seconds=0.1", "1 or more"),
        ("grafana=1", "grafana"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_dashboards([setting])


def test_prometheus_reads_what_the_settings_name(tmp_path: Path) -> None:
    config = load_dashboards(
        [
            "service=https://brew360.example.com/api",
            "jobs=http://10.0.0.1:8360",
            f"key_file={tmp_path / 'key'}",
            "ray=[10.0.0.2:8080,10.0.0.3:8080]",
            f"ray_targets={tmp_path / 'targets.json'}",
            "alertmanagers=[10.0.0.5:9093]",
            "interval_seconds=5",
        ]
    )
    document = yaml.safe_load(render_dashboards(config)["prometheus.yml"])
    scrapes = {scrape["job_name"]: scrape for scrape in document["scrape_configs"]}
    service = scrapes["brew360-service"]
    assert (service["scheme"], service["metrics_path"]) == ("https", "/api/metrics")
    assert service["static_configs"] == [{"targets": ["brew360.example.com"]}]
    assert service["authorization"] == {"credentials_file": str(tmp_path / "key")}
    assert scrapes["brew360-ray"]["static_configs"][0]["targets"] == ["10.0.0.2:8080", "10.0.0.3:8080"]
    assert "authorization" not in scrapes["brew360-ray"], "the key is for the service"
    assert scrapes["brew360-ray-nodes"]["file_sd_configs"] == [{"files": [str(tmp_path / "targets.json")]}]
    assert document["global"]["scrape_interval"] == "5s"
    assert document["alerting"]["alertmanagers"] == [{"static_configs": [{"targets": ["10.0.0.5:9093"]}]}]
    assert {scrape["scrape_timeout"] for scrape in scrapes.values()} == {"5s"}


def test_promtool_accepts_the_files(promtool: Path, config: DashboardsConfig) -> None:
    config = replace(config, alertmanagers=["10.0.0.5:9093"], ray=["10.0.0.2:8080"], jobs="http://10.0.0.1:8360")
    write_dashboards(config)
    assert check_files(promtool, Path(config.folder)) == ""
    (Path(config.folder) / "rules" / "jobs.yml").write_text("groups: [{name: x, rules: [{alert: A, expr: 'sum('}]}]")
    assert "parse error" in check_files(promtool, Path(config.folder))


def test_alerts_fire_when_they_should(promtool: Path, config: DashboardsConfig, tmp_path: Path) -> None:
    names = []
    for name, document in load_rules(config).items():
        for group in document["groups"]:
            for rule in group["rules"]:
                rule.pop("annotations", None)  # promtool would compare their texts, too
        (tmp_path / name).write_text(yaml.safe_dump(document))
        names.append(name)

    def test_of(case: Case, series: dict[str, str], labels: list[dict[str, str]]) -> dict[str, Any]:
        return {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [
                {
                    "alertname": case.alert,
                    "eval_time": case.at,
                    "exp_alerts": [{"exp_labels": {"severity": case.severity, **found}} for found in labels],
                }
            ],
        }

    tests = [test_of(case, case.firing, [case.labels]) for case in CASES]
    tests += [test_of(case, case.quiet, []) for case in CASES]
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"rule_files": names, "evaluation_interval": "1m", "tests": tests})
    )
    done = subprocess.run(
        [str(promtool), "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {case.alert for case in CASES} == {rule["alert"] for rule in rules("alert")}, "every alert has a case"

"""Checks the rendered files with promtool, and runs the queries of every panel against a Prometheus."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx

from brew_cluster.dashboards.panels import Dashboard
from brew_platform.errors import BrewError

__all__ = ["PanelResult", "check_files", "query_panels"]

_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class PanelResult:
    """What Prometheus answers for a query of a panel now.

    Args:
        panel: `dashboard/title`.
        expression: The query.
        series: Number of series with a value; 0: the panel shows no data.
        problem: Why the query failed; empty if it did not.
    """

    panel: str
    expression: str
    series: int
    problem: str = ""


def check_files(promtool: Path, folder: Path) -> str:
    """Check `prometheus.yml` and the rules in a folder.

    Returns:
        What promtool reports; empty if nothing is wrong.
    """
    done = subprocess.run(
        [str(promtool), "check", "config", "prometheus.yml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()


def query_panels(url: str, dashboards: Iterable[Dashboard]) -> list[PanelResult]:
    """Run every query of the dashboards.

    Args:
        url: Of Prometheus.
        dashboards: Whose queries are run.

    Raises:
        BrewError: Prometheus does not answer.
    """
    results = []
    with httpx.Client(base_url=url, trust_env=False, timeout=30.0) as http:
        for dashboard in dashboards:
            for panel in dashboard.panels:
                for query in panel.queries:
                    try:
                        answer = http.get("/api/v1/query", params={"query": query.expression}).json()
                    except (httpx.HTTPError, ValueError) as error:
                        raise BrewError(f"no Prometheus answers at {url}: {error}. Check the address.") from error
                    found = [] if answer["status"] != "success" else answer["data"]["result"]
                    results.append(
                        PanelResult(
                            panel=f"{dashboard.name}/{panel.title}",
                            expression=query.expression,
                            series=sum(item["value"][1] != "NaN" for item in found),
                            problem="" if answer["status"] == "success" else str(answer.get("error")),
                        )
                    )
    return results

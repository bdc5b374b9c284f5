"""The overview page: all dashboards on one page that Prometheus serves, for machines without Grafana.

The page has no dependency. It is a console template of Prometheus, so it reads the data from where it comes.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from importlib.resources import files

from brew_cluster.dashboards.panels import Dashboard

__all__ = ["overview_page"]


def overview_page(dashboards: Iterable[Dashboard]) -> str:
    """Return the page as a console template."""
    page = files("brew_cluster.dashboards").joinpath("overview.html").read_text()
    content = json.dumps([asdict(dashboard) for dashboard in dashboards])
    # Prometheus would read `{{label}}` as a template, and the browser `</script>` as the end.
    return page.replace("DASHBOARDS", content.replace("{{", "{\\u007b").replace("</", "<\\/"))

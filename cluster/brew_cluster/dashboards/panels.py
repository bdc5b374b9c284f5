"""What a dashboard contains, for Grafana, for the overview page, and for the check of the queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Dashboard", "Panel", "Query", "Unit"]

# Grafana's names of units; `none` is a plain number.
Unit = Literal["none", "short", "s", "percentunit", "reqps", "ops", "bytes", "dateTimeAsIso"]


@dataclass(frozen=True, kw_only=True)
class Query:
    """A PromQL expression.

    Args:
        expression: As Prometheus takes it, without variables of Grafana.
        legend: Name of each series; `{{label}}` stands for the value of a label.
    """

    expression: str
    legend: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A graph of one or more queries over time.

    Args:
        title: Unique in its dashboard.
        meaning: One sentence for the reader who sees it the first time.
        unit: Of the values.
        queries: All with this unit.
        stacked: Draw the series on top of each other, where their sum means something.
        maximum: Upper end of the axis; None fits it to the values.
    """

    title: str
    meaning: str
    queries: Sequence[Query]
    unit: Unit = "short"
    stacked: bool = False
    maximum: float | None = None


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """A page of panels, two beside each other.

    Args:
        name: File name and address in Grafana.
        title: Shown.
        panels: In the order of reading.
    """

    name: str
    title: str
    panels: Sequence[Panel]

"""The table of a benchmark has the regressions of a task below the model."""

import io
import re

from brew_cluster.cli.views.benchmark import show_quality
from brew_platform.console.plain_console import PlainConsole
from brew_serve.benchmark import TaskQuality


def test_a_regression_is_a_row_below_the_model() -> None:
    out = io.StringIO()
    quality = TaskQuality(
        rows=10_000,
        positive_rate=0.5,
        auc=0.8,
        logloss=0.5,
        baseline_auc=0.6,
        best_auc=0.9,
        other_aucs={"matches": 0.875, "profile": None},
    )
    other = TaskQuality(rows=5, positive_rate=0.5, auc=0.8, logloss=0.5, baseline_auc=None, best_auc=None)
    show_quality(
        PlainConsole(file=out, width=80), {"job_apply": quality, "other": other}, title="AUC", column="brew360"
    )
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.getvalue().splitlines() if "│" in line]
    assert rows == [
        ["job_apply", "10,000", "0.6000", "0.8000", "0.9000", "67%", "0.5000"],
        ["matches", "", "", "0.8750", "", "92%", ""],
        ["profile", "", "", "-", "", "-", ""],
        ["other", "5", "-", "0.8000", "-", "-", "0.5000"],
    ]
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert re.search(r"┃ task +┃", out.getvalue())

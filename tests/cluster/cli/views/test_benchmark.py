"""The table of a benchmark has the other baselines below the tasks of a tier."""

import io

from brew_cluster.cli.views.benchmark import show_report
from brew_eval.evaluation import evaluate
from brew_eval.measurement import EvaluationConfig
from brew_platform.console.plain_console import PlainConsole

from ....evaluation.rows import columns, scored


def test_a_baseline_is_a_row_below_the_tasks() -> None:
    out = io.StringIO()
    rows = scored(columns(120), model="m")
    others = [rows.with_scores(1 - rows.column("score"), baseline=name) for name in ("entity_mean", "biases")]
    report = evaluate(rows, others, EvaluationConfig(replicates=2))
    show_report(PlainConsole(file=out, width=120), report, title="AUC")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.getvalue().splitlines() if "│" in line]
    task = next(iter(report.tasks.values()))
    assert f"{task.figures['auc'].value:.4f}" in lines[0]
    assert [line[0] for line in lines if line[0] == "biases"]
    assert not [line for line in lines if line[0] == "entity_mean"]  # it is a column

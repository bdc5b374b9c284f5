"""The figures of `make demo-base`: bench/out/base.json and the table."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from brew_platform.errors import DataError
from brew_platform.files import replace_atomically

__all__ = ["MODELS", "read_report", "show", "task_figures", "write"]

MODELS = ("zero_shot", "cpt", "sft", "from_scratch")  # keys of the models; base.json has `<key>_auc` of each


def read_report(path: Path) -> dict[str, Any]:
    """Read a report of `brew360 benchmark`."""
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def task_figures(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the figures of each task.

    Args:
        reports: Of `brew360 benchmark run`, by the keys in `MODELS`.

    Returns:
        By task: `rows`, `<model>_auc` of each model, `baseline_auc` (entity mean), and `best_auc` (the true
        probabilities; None where they are not known).

    Raises:
        DataError: The models were not measured on the same rows.
    """
    digests = {name: report["sample"]["rows_digest"] for name, report in reports.items()}
    if len(set(digests.values())) > 1:
        raise DataError(
            f"the models were measured on different rows ({digests}), so their figures cannot be compared. Run the "
            f"benchmark again with --fresh."
        )
    first = next(iter(reports.values()))
    figures: dict[str, dict[str, Any]] = {}
    for task, values in first["tasks"].items():
        figures[task] = {"rows": values["rows"]}
        for name in MODELS:
            figures[task][f"{name}_auc"] = reports[name]["tasks"][task]["auc"] if name in reports else None
        figures[task] |= {"baseline_auc": values["baseline_auc"], "best_auc": values["best_auc"]}
    return figures


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_atomically(path, json.dumps(content, indent=1) + "\n")


def show(content: Mapping[str, Any], console: Console) -> None:
    """Print the table of AUCs, and a line for each other figure.

    Args:
        content: Of base.json.
        console: The output.
    """
    table = Table(title="AUC on rows strictly later than training", title_justify="left")
    table.add_column("data")
    for name in ("task", "rows", "entity mean", "zero-shot", "CPT", "SFT", "from scratch", "best"):
        table.add_column(name, justify="left" if name == "task" else "right")
    columns = ("baseline_auc", *(f"{name}_auc" for name in MODELS), "best_auc")
    for data in ("synthetic", "movielens"):
        for task, figures in content.get(data, {}).get("tasks", {}).items():
            values = [figures[name] for name in columns]
            cells = ["-" if value is None else f"{value:.4f}" for value in values]
            table.add_row(data, task, f"{figures['rows']:,}", *cells)
    console.print(table)

    def line(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    if parity := content.get("parity"):
        line(
            f"parity: prompts {parity['prompts']} ({parity['compared']:,} compared on four paths); scores differ from "
            f"PyTorch's by at most {parity['score']:.1e} ({parity['scored']} prompts, the longest of "
            f"{parity['longest']:,} tokens)"
        )
    line(f"{content['seconds']['total'] / 60:.1f} min in all; peak memory {content['peak_rss_gb']} GB of all processes")

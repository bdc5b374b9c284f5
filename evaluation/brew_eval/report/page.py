"""Reports and comparisons as one self-contained HTML page: tables and SVG plots, without scripts and requests."""

from collections.abc import Mapping, Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from brew_eval.compare import Comparison
from brew_eval.report.plots import DotRow, clean, dot_plot, reliability_plot
from brew_eval.report.report import Report, TaskReport
from brew_eval.report.tables import Table, comparison_tables, interval_note, origin, report_tables

__all__ = ["comparison_page", "render_page", "report_page"]


def report_page(report: Report) -> str:
    """Return a report as HTML."""
    has_best = any(task.best_auc.value is not None for task in report.tasks.values())
    models = [report.info.name, *report.baselines]
    rows = [
        DotRow(
            f"{name} ({task.tier})",
            [
                task.figures["auc"],
                *(
                    task.baselines[other].figures["auc"] if other in task.baselines else None
                    for other in report.baselines
                ),
                *([task.best_auc] if has_best else []),
            ],
        )
        for name, task in report.tasks.items()
    ]
    plots = [
        (
            "AUC by task",
            dot_plot(rows, [*models, *(["best reachable"] if has_best else [])], title="AUC by task", reference=0.5),
        )
    ]
    curves = [reliability_plot(task.reliability, title=name) for name, task in report.tasks.items()]
    plots.append(("Reliability: share of positive rows by predicted probability", "".join(curves)))
    for name, task in report.tasks.items():
        svg = dot_plot(_slice_rows(task, list(report.baselines)), models, title=f"AUC of slices of {name}")
        plots.append((f"AUC by slice: {name}", svg))
    return render_page(
        f"Evaluation of {report.info.name}",
        origin(report.info) | {"evaluated": report.date},
        report.warnings,
        plots,
        report_tables(report),
        interval_note(report.config),
    )


def comparison_page(comparison: Comparison) -> str:
    """Return a comparison as HTML."""
    tasks = [DotRow(name, [change.difference]) for name, change in comparison.groups.items()]
    tasks += [DotRow(name, [task.figures["auc"].difference]) for name, task in comparison.tasks.items()]
    plots = [("Difference of AUC, A minus B", dot_plot(tasks, ["A - B"], title="Difference of AUC", reference=0.0))]
    for name, task in comparison.tasks.items():
        rows = [DotRow(f"{part.dimension}: {part.name}", [part.auc.difference]) for part in task.slices]
        svg = dot_plot(rows, ["A - B"], title=f"Difference of AUC of slices of {name}", reference=0.0)
        plots.append((f"Difference of AUC by slice: {name}", svg))
    pairs = {f"A: {name}": text for name, text in origin(comparison.a).items()}
    pairs |= {f"B: {name}": text for name, text in origin(comparison.b).items()}
    return render_page(
        f"{comparison.a.name} (A) against {comparison.b.name} (B)",
        pairs,
        comparison.warnings,
        plots,
        comparison_tables(comparison),
        interval_note(comparison.config),
    )


def render_page(
    title: str,
    pairs: Mapping[str, str],
    warnings: Sequence[str],
    plots: Sequence[tuple[str, str]],
    tables: Sequence[Table],
    note: str,
    *,
    warnings_title: str = "Not in the figures",
    prompt: Sequence[tuple[str, str]] = (),
) -> str:
    """Return a page.

    Args:
        title: Its heading.
        pairs: Facts below the heading, by name.
        warnings: Sentences.
        plots: Headings and SVG elements of `brew_eval.report.plots`; empty ones are left out.
        tables: Below the plots.
        note: The last line.
        warnings_title: Heading of the warnings.
        prompt: Names and texts of the parts of a prompt, whose line breaks are kept.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(files("brew_eval.report").joinpath("page.html").read_text())
    page = template.render(
        title=title,
        pairs=pairs,
        warnings=warnings,
        plots=[{"title": heading, "svg": svg} for heading, svg in plots if svg],
        tables=tables,
        note=note,
        warnings_title=warnings_title,
        prompt=prompt,
    )
    return "\n".join(clean(line) for line in page.split("\n"))


def _slice_rows(task: TaskReport, baselines: Sequence[str]) -> list[DotRow]:
    return [
        DotRow(
            f"{part.dimension}: {part.name}",
            [part.figures["auc"], *(part.baselines.get(other) for other in baselines)],
        )
        for part in task.slices
    ]

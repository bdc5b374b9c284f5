"""Writes reports and comparisons as JSON, Markdown and HTML, side by side."""

from pathlib import Path

from brew_eval.compare import Comparison
from brew_eval.report.markdown import comparison_markdown, report_markdown
from brew_eval.report.page import comparison_page, report_page
from brew_eval.report.report import Report
from brew_platform.errors import UserError
from brew_platform.files import replace_atomically

__all__ = ["read_evaluation", "write_comparison", "write_report"]


def write_report(report: Report, path: Path) -> list[Path]:
    """Write `path` (JSON), and the same name with .md and .html.

    Raises:
        UserError: The path does not end in .json.
    """
    return _write(path, report.to_json(), report_markdown(report), report_page(report))


def write_comparison(comparison: Comparison, path: Path) -> list[Path]:
    """Write `path` (JSON), and the same name with .md and .html.

    Raises:
        UserError: The path does not end in .json.
    """
    return _write(path, comparison.to_json(), comparison_markdown(comparison), comparison_page(comparison))


def read_evaluation(path: Path) -> Report:
    """Read the JSON file of `write_report`.

    Raises:
        UserError: The file cannot be read, or is not a report of this release.
    """
    try:
        return Report.from_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"the report {path} cannot be read ({error}). Evaluate the model first.") from error


def _write(path: Path, *texts: str) -> list[Path]:
    if path.suffix != ".json":
        raise UserError(f"{path} is the path of a report, but does not end in .json. Pass e.g. {path}.json.")
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = [path.with_suffix(suffix) for suffix in (".json", ".md", ".html")]
    for file, text in zip(paths, texts, strict=True):
        replace_atomically(file, text)
    return paths

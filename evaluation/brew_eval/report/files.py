"""Writes reports, comparisons and explanations as JSON, Markdown and HTML, side by side."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brew_eval.compare import Comparison
from brew_eval.explanation import Explanation
from brew_eval.report.explanation import explanation_markdown, explanation_page
from brew_eval.report.markdown import comparison_markdown, report_markdown
from brew_eval.report.page import comparison_page, report_page
from brew_eval.report.report import Report
from brew_platform.errors import UserError
from brew_platform.files import replace_atomically

__all__ = [
    "read_comparison",
    "read_evaluation",
    "require_json_path",
    "write_comparison",
    "write_explanation",
    "write_report",
]

_REPORT = "evaluation"  # key of the report in a file that has more


def write_report(report: Report, path: Path, record: Mapping[str, Any] | None = None) -> list[Path]:
    """Write `path` (JSON), and the same name with .md and .html.

    Args:
        report: The report.
        path: Of the JSON file.
        record: Written to the JSON file before the report, which is then under the key `evaluation`. None: the JSON
            file is the report.

    Raises:
        UserError: The path does not end in .json.
    """
    content = report.to_json()
    if record is not None:
        content = json.dumps({**record, _REPORT: json.loads(content)}, indent=2) + "\n"
    return _write(path, content, report_markdown(report), report_page(report))


def write_comparison(comparison: Comparison, path: Path) -> list[Path]:
    """Write `path` (JSON), and the same name with .md and .html.

    Raises:
        UserError: The path does not end in .json.
    """
    return _write(path, comparison.to_json(), comparison_markdown(comparison), comparison_page(comparison))


def write_explanation(explanation: Explanation, path: Path) -> list[Path]:
    """Write `path` (JSON), and the same name with .md and .html.

    Raises:
        UserError: The path does not end in .json.
    """
    return _write(path, explanation.to_json(), explanation_markdown(explanation), explanation_page(explanation))


def read_evaluation(path: Path) -> Report:
    """Read the JSON file of `write_report`.

    Raises:
        UserError: The file cannot be read, or is not a report of this release.
    """
    try:
        content = json.loads(path.read_bytes())
        if isinstance(content, dict) and _REPORT in content:
            content = content[_REPORT]
        return Report.from_dict(content)
    except (OSError, ValueError) as error:
        raise UserError(f"the report {path} cannot be read ({error}). Evaluate the model first.") from error


def read_comparison(path: Path) -> Comparison:
    """Read the JSON file of `write_comparison`.

    Raises:
        UserError: The file cannot be read, or is not a comparison of this release.
    """
    try:
        return Comparison.from_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"the comparison {path} cannot be read ({error}). Compare the models first.") from error


def require_json_path(path: Path) -> None:
    """Check the path of a report before anything is computed.

    Raises:
        UserError: The path is a folder, or does not end in .json.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder. Pass the path of the report to write, e.g. {path / 'report.json'}.")
    if path.suffix != ".json":
        raise UserError(f"{path} is the path of a report, but does not end in .json. Pass e.g. {path}.json.")


def _write(path: Path, *texts: str) -> list[Path]:
    require_json_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = [path.with_suffix(suffix) for suffix in (".json", ".md", ".html")]
    for file, text in zip(paths, texts, strict=True):
        replace_atomically(file, text)
    return paths

"""The how-to page `add-a-task.md`: its files, written as they stand there, load and print what the page says."""

import re
import subprocess
import sys
from pathlib import Path

from brew_data.prompts.suite import load_suite

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-task.md"


def write_files(folder: Path) -> list[str]:
    """Write the blocks of the page that follow a line of a path; return their paths."""
    blocks = re.findall(r"^`([^`\n]+)`:\n\n```\w+\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for name, text in blocks:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [name for name, _ in blocks]


def test_the_files_of_the_page_print_the_output_of_the_page(tmp_path: Path) -> None:
    assert write_files(tmp_path) == [
        "my_suite/suite.yaml",
        *(f"my_suite/tasks/feed_{name}.yaml" for name in ("like", "comment", "share", "dwell")),
        "check_suite.py",
    ]
    run = subprocess.run([sys.executable, "check_suite.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    [expected] = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert run.stdout == expected


def test_the_pages_tasks_derive_their_labels_from_actions(tmp_path: Path) -> None:
    write_files(tmp_path)
    suite = load_suite(tmp_path / "my_suite")
    labels = {
        task.name: {action.name: suite.outcome(task, action.name).label for action in suite.surface("feed").actions}
        for task in suite.tasks_of("feed")
    }
    others = dict.fromkeys(["like", "comment", "share", "dwell", "skip"], "other")
    assert labels == {
        "feed_like": others | {"like": "like"},
        "feed_comment": others | {"comment": "comment"},
        "feed_share": others | {"share": "share"},
        "feed_dwell": dict.fromkeys(others, "engage") | {"skip": "none"},
    }

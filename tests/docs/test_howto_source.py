"""Follows docs/how-to/add-a-source.md: builds its package in a temporary folder and reads tables with it."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

RUN = """
from pathlib import Path
from brew_cluster.jobs.demo_config import load_recipe
from brew_data.sources.base import load_source, open_source, read_source, source_names

assert source_names() == ["amazon_reviews", "courses", "economic_graph", "mind", "movielens", "synthetic", "tables"]
assert load_source("courses").__name__ == "Courses"
config = load_recipe("courses", ["source_config.min_rating=3"], recipe=Path("courses.yaml"))
assert config.suite == "movielens"
tables = read_source(open_source("courses", config.source_config, Path("courses.csv")))
print(tables.interactions["action"].to_pylist(), tables.entities["entity_id"].to_pylist())
"""


@pytest.fixture
def package(page_files: Callable[[str, Path], Path], tmp_path: Path) -> Path:
    """The files of the page, with the metadata that an installation writes."""
    folder = page_files("docs/how-to/add-a-source.md", tmp_path)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    [(name, value)] = project["entry-points"]["brew360.sources"].items()
    (metadata / "entry_points.txt").write_text(f"[brew360.sources]\n{name} = {value}\n")
    (folder / "courses.csv").write_text("learner,course,rating,seconds\n1,algebra,3,20\n2,biology,2,10\n")
    return folder


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_source_of_the_page_is_found_and_reads_tables(package: Path) -> None:
    done = run(RUN, package)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['rated_1', 'rated_5'] ['biology', 'algebra']"


def test_a_source_that_cannot_be_imported_is_named(package: Path) -> None:
    (package / "brew_courses" / "__init__.py").write_text("import no_such_module")
    done = run("from brew_data.sources.base import load_source; load_source('courses')", package)
    assert "source 'courses' (package brew-courses, brew_courses:Courses) cannot be imported" in done.stderr
    assert "No module named 'no_such_module'" in done.stderr

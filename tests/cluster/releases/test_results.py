"""The table of results: its rows, and that no cell is a formula or HTML."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from brew_cluster.cli.main import app
from brew_cluster.releases.release import Release
from brew_cluster.releases.results import Table, collect, to_csv, to_html, to_xlsx, write_tables
from brew_cluster.releases.runner import LocalRunner
from brew_cluster.releases.sweep import plan_sweep, read_sweep, run_sweep
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import BrewError, UserError

Make = Callable[..., Release]
SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


@pytest.fixture
def console() -> PlainConsole:
    return PlainConsole(file=io.StringIO(), width=200)


def sheet(content: bytes) -> ElementTree.Element:
    with zipfile.ZipFile(io.BytesIO(content)) as book:
        return ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://a")', "http://a"])
def test_no_text_becomes_a_formula(text: str) -> None:
    table = Table(columns=["release", text], rows=[[text, -1.5], ["a", None]], link=1, is_complete=True)
    rows = list(csv.reader(io.StringIO(to_csv(table), newline="")))
    assert rows[1][0][0] not in "=+-@\t\r"
    assert rows[1][0].removeprefix("'").strip() == text.strip()
    assert rows[1][1] == "-1.5"  # a number stays one
    root = sheet(to_xlsx(table))
    assert not list(root.iter(f"{SHEET}f"))
    assert not list(root.iter(f"{SHEET}hyperlink"))
    kinds = [cell.get("t") for cell in root.iter(f"{SHEET}c")]
    assert kinds == ["s", "s", "s", None, "s"]


def test_html_is_escaped() -> None:
    bad = '"><script>alert(1)</script>'
    page = to_html(Table(columns=["release", bad], rows=[[bad, bad]], link=1, is_complete=False))
    assert page.count("<script>") == 1
    assert bad not in page
    assert 'http-equiv="refresh"' in page
    link = "JavaScript:alert(1)"
    assert 'href="./JavaScript%3A' in to_html(Table(columns=["a"], rows=[[link]], link=0, is_complete=True))


def test_rows_have_settings_states_figures_and_version(
    make_release: Make, runner: LocalRunner, console: PlainConsole, tmp_path: Path
) -> None:
    first, second = make_release("name=first"), make_release("name=second", "sft.train.seed=1")
    first.run(runner, console)
    second.content().save(second.folder)
    table = collect([first.folder, second.folder], base=tmp_path)
    assert table.columns[:3] == ["release", "sft.train.seed", "data"]
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert rows[0] | {"cpt seconds": 0} == rows[0] | {
        "release": "first", "sft.train.seed": None, "sft": "done", "canary": "skipped", "job_apply.auc": 0.75,
        "job_apply.logloss": 0.5, "version": 7, "problem": None, "link": "first", "cpt seconds": 0,
    }  # fmt: skip
    assert (rows[1]["sft.train.seed"], rows[1]["cpt"], rows[1]["sft"]) == ("1", "done", "waiting")
    assert rows[1]["job_apply.auc"] is rows[1]["version"] is None
    assert not table.is_complete
    files = write_tables(table, tmp_path / "out")
    assert [file.name for file in files] == ["table.csv", "table.xlsx", "table.html"]
    assert all(file.stat().st_size > 100 for file in files)


SWEEP = """
recipe: tiny
settings: {benchmark.rows: 30}
grid:
  sft.train.stages.0.learning_rate: [0.001, 1e-4]
releases:
  seed: {sft.train.seed: 5}
"""


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_sweep_runs_shared_steps_once_and_fills_its_table(
    at_once: int, runner: LocalRunner, calls: Callable[[], list[str]], console: PlainConsole, tmp_path: Path
) -> None:
    (tmp_path / "rates.yaml").write_text(SWEEP)
    sweep = read_sweep(str(tmp_path / "rates.yaml"))
    assert list(sweep.releases) == ["rates-1", "rates-2", "rates-seed"]
    assert sweep.releases["rates-2"] == ["benchmark.rows=30", "sft.train.stages.0.learning_rate=1e-4"]
    releases = plan_sweep(sweep, tmp_path / "sweep", tmp_path / "steps")
    run_sweep(releases, tmp_path / "sweep", runner, console, at_once=at_once)
    ran = calls()
    assert {name: ran.count(name) for name in ("data", "cpt", "ift", "sft", "promote")} == {
        "data": 1, "cpt": 1, "ift": 1, "sft": 3, "promote": 3,
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO((tmp_path / "sweep/table.csv").read_text())))
    assert [row["sft.train.stages.0.learning_rate"] for row in rows] == ["0.001", "1e-4", ""]
    assert {row["promote"] for row in rows} == {"done"}
    run_sweep(releases, tmp_path / "sweep", runner, console)
    assert calls() == []
    done = CliRunner().invoke(app, ["release", "table", str(tmp_path / "sweep"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert len((tmp_path / "out/table.csv").read_text().splitlines()) == 4


def test_a_release_that_fails_does_not_end_the_others(
    runner: LocalRunner, console: PlainConsole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", "sft")
    releases = plan_sweep(read_sweep("tiny"), tmp_path / "sweep", tmp_path / "steps")
    with pytest.raises(BrewError, match=r"2 of 2 releases failed: tiny-sweep-1, tiny-sweep-2\."):
        run_sweep(releases, tmp_path / "sweep", runner, console)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "sweep/table.csv").read_text())))
    assert [(row["ift"], row["sft"], row["problem"]) for row in rows] == 2 * [
        ("done", "failed", "the disk is full. Free some space.")
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("recipes: tiny\n", "unknown key recipes"),
        ("grid: {}\n", "has no recipe"),
        ("recipe: tiny\n", "has no release"),
        ("recipe: tiny\ngrid: {benchmark.rows: 5}\n", "grid.benchmark.rows in .* is not a list"),
        ("recipe: tiny\ngrid: {benchmark.rows: [1, x]}\n", "release sweep-2: section benchmark: rows='x'"),
        ("recipe: tiny\nreleases: {a: {rows: 1}}\n", "release sweep-a: the override 'rows=1' is not of the form"),
        (f"recipe: tiny\ngrid: {{a.b: {list(range(1001))}}}\n", "1,001 releases, more than 1,000"),
    ],
)
def test_an_invalid_sweep_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        plan_sweep(read_sweep(str(tmp_path / "sweep.yaml")), tmp_path / "a", tmp_path / "steps")


def test_a_folder_without_a_release_is_refused(tmp_path: Path) -> None:
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["release", "table", str(tmp_path)])
    assert done.exit_code == 2
    assert "has neither release.json nor sweep.json" in done.output
    (tmp_path / "sweep.json").write_text(json.dumps({"format_version": 2}))
    assert "format_version is 2" in CliRunner().invoke(app, ["release", "table", str(tmp_path)]).output

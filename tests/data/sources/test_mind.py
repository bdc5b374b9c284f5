"""MIND's two files become news and clicks."""

from pathlib import Path

import pytest

from brew_data.problems import Problem
from brew_data.schema import micros
from brew_data.sources.mind import Mind, MindConfig
from brew_data.sources.quarantine import Quarantine
from brew_platform.errors import ConfigError, DataError

NEWS = (
    'N1\tsports\tgolf\tThe "open" title\tAn abstract\thttps://a.msn.com/1\t[]\t[{"Label": "x"}]\n'
    "N2\tnews\tus\tSecond\t\thttps://a.msn.com/2\t[]\t[]\n"
)
BEHAVIORS = (
    "1\tU1\t11/15/2019 8:55:22 AM\tN2 N1\tN1-1 N2-0\n"
    "2\tU2\t11/15/2019 9:55:22 PM\t\tN2-1\n"
    "3\tU1\t11/16/2019 12:00:00 AM\tN2 N1\tN2-0\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "news.tsv").write_text(NEWS)
    (tmp_path / "behaviors.tsv").write_text(BEHAVIORS)
    return tmp_path


def test_impressions_become_clicks_and_skips(folder: Path) -> None:
    tables = Mind(config=MindConfig(history="drop"), path=folder).read()
    rows = tables.interactions.select(["member_id", "entity_id", "surface", "action"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("U1", "N1", "news", "click"),
        ("U1", "N2", "news", "skip"),
        ("U2", "N2", "news", "click"),
        ("U1", "N2", "news", "skip"),
    ]
    assert micros(tables.interactions).to_pylist()[0] == 1_573_808_122_000_000
    assert tables.entities["fields"].to_pylist()[0] == {
        "title": 'The "open" title', "category": "sports", "subcategory": "golf", "abstract": "An abstract",
    }  # fmt: skip


def test_history_clicks_come_before_everything_else_in_order(folder: Path) -> None:
    tables = Mind(path=folder).read()
    first = tables.interactions.slice(0, 2).select(["member_id", "entity_id", "action"]).to_pylist()
    assert [tuple(row.values()) for row in first] == [("U1", "N2", "click"), ("U1", "N1", "click")]
    times = micros(tables.interactions).to_pylist()
    assert times[2] - times[1] == times[1] - times[0] == 1_000_000
    assert tables.interactions.num_rows == 6  # each member's history once


def test_several_folders_share_their_news(folder: Path) -> None:
    for name in ("MINDsmall_train", "MINDsmall_dev"):
        (folder / "all" / name).mkdir(parents=True)
        for file in ("news.tsv", "behaviors.tsv"):
            (folder / "all" / name / file).write_bytes((folder / file).read_bytes())
    tables = Mind(config=MindConfig(history="drop"), path=folder / "all").read()
    assert (tables.entities.num_rows, tables.interactions.num_rows) == (2, 8)


def test_bad_rows_go_to_the_quarantine(folder: Path) -> None:
    time = "11/15/2019 8:55:22 AM"
    bad = f"4\tU1\t15.11.2019\t\tN1-1\n5\tU1\t{time}\t\tN1 N2\n6\tU1\n7\tU3\t{time}\t\tN9-1\n"
    (folder / "behaviors.tsv").write_text(BEHAVIORS + bad)
    quarantine = Quarantine()
    tables = Mind(config=MindConfig(history="drop"), path=folder).read_rows(quarantine)
    assert tables.interactions.num_rows == 4
    found = {
        example.partition(":")[0]: reason for (_, reason), lines in quarantine.examples.items() for example in lines
    }
    name = str(folder / "behaviors.tsv")
    assert found == {
        f"{name} line 4": "time does not match the time format %m/%d/%Y %I:%M:%S %p",
        f"{name} line 5": "impressions are not of the form N1-1 N2-0 (files for testing have no labels)",
        f"{name} line 6": "the row has another number of values than the header",
        f"{name} line 7": "entity_id is not in the entities",
    }
    with pytest.raises(DataError, match="break the schema"):
        Mind(path=folder).read()


@pytest.mark.parametrize("id_", ["", "  ", "N" * 201])
def test_ids_that_no_request_can_name_go_to_the_quarantine(folder: Path, id_: str) -> None:
    (folder / "news.tsv").write_text((folder / "news.tsv").read_text() + f"{id_}\tnews\tx\ttitle\tabstract\t\t\t\n")
    row = f"9\t{id_}\t11/15/2019 8:55:22 AM\t\tN1-1\n"
    (folder / "behaviors.tsv").write_text((folder / "behaviors.tsv").read_text() + row)
    quarantine = Quarantine()
    Mind(config=MindConfig(history="drop"), path=folder).read_rows(quarantine)
    found = {table: next(iter(reasons)).split()[0] for table, reasons in quarantine.reasons.items()}
    assert found == {"entities": "news_id", "interactions": "user_id"}


def test_missing_files_are_problems(tmp_path: Path) -> None:
    problems = Mind(path=tmp_path).find_problems()
    assert [problem.table for problem in problems] == ["news.tsv", "behaviors.tsv"]
    assert isinstance(problems[0], Problem)
    assert "has no news.tsv. Set the path to a folder with news.tsv and behaviors.tsv" in problems[0].message
    with pytest.raises(ConfigError, match="history is 'keep'"):
        MindConfig(history="keep")

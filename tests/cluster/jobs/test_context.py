"""The member context of a data folder: all interactions, or those that training saw."""

from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from brew_cluster.cli.main import app
from brew_cluster.jobs.context import build_context
from brew_data.data_folder import DataFolder, DatasetInfo
from brew_data.schema import TIMESTAMP, Tables, write_tables
from brew_data.split import Split
from brew_platform.errors import DataError, UserError
from brew_serve.context.base import MemberContext


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    folder = tmp_path / "data"
    (folder / "prompts").mkdir(parents=True)
    tables = Tables(
        members=pa.table(
            {"member_id": ["ada"], "profile": [{"title": "nurse"}], "locale": ["en"], "opted_out": [False]}
        ),
        entities=pa.table(
            {
                "entity_id": ["hot"],
                "entity_type": ["job"],
                "created_at": pa.array([0], TIMESTAMP),
                "fields": [{"title": "cook"}],
            }
        ),
        interactions=pa.table(
            {
                "interaction_id": [1, 2, 3],
                "member_id": ["ada"] * 3,
                "entity_id": ["hot"] * 3,
                "surface": ["jobs"] * 3,
                "action": ["apply", "skip", "apply"],
                "timestamp": pa.array([10, 20, 30], TIMESTAMP),
            }
        ),
    )
    write_tables(tables, folder / "tables")
    DatasetInfo(
        source="tables", split=Split(train_until=20, until=30), has_true_probabilities=False,
        config_digest="c", prompt_digest="p", commit=None,
    ).write(folder)  # fmt: skip
    return DataFolder.open(folder)


@pytest.mark.parametrize(("until", "times"), [("all", [10, 20, 30]), ("train-cut", [10, 20])])
def test_histories_end_where_they_are_to_end(data: DataFolder, tmp_path: Path, until: str, times: list[int]) -> None:
    out = tmp_path / "runs" / "context.sqlite"
    for _ in range(2):  # an existing file is replaced
        build_context(data, out, until=until)
    context = MemberContext(out)
    profile, history = context.member("ada")
    assert profile == {"title": "nurse"}
    assert [past.timestamp for past in history] == times
    assert context.entity("hot").fields == {"title": "cook"}
    context.close()


def test_invalid_arguments_are_refused(data: DataFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--until is 'now'; use train-cut or all"):
        build_context(data, tmp_path / "c.sqlite", until="now")
    with pytest.raises(UserError, match=r"is a folder\. Pass the path of the SQLite file"):
        build_context(data, tmp_path, until="all")
    (data.tables_folder / "members.parquet").unlink()
    with pytest.raises(DataError, match=r"members\.parquet does not exist"):
        build_context(data, tmp_path / "c.sqlite", until="all")
    assert not (tmp_path / "c.sqlite").exists()


def test_the_command_prints_the_counts(data: DataFolder, tmp_path: Path) -> None:
    arguments = ["context", "build", "--data", str(data.folder), "--out", str(tmp_path / "c [1].sqlite")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / 'c [1].sqlite'}: 1 members, 1 entities, 3 interactions" in done.output.replace("\n", "")
    failed = CliRunner().invoke(app, ["context", "build", "--data", str(tmp_path), "--out", "x"])
    assert failed.exit_code == 2
    assert "has no dataset.json" in failed.output

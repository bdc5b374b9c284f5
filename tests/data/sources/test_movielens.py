"""`read_movielens` converts the files to tables and refuses malformed files by name and line."""

from pathlib import Path

import pyarrow as pa
import pytest

from brew_data.schema import TIMESTAMP, Tables, micros, read_tables, write_tables
from brew_data.sources.movielens import read_movielens
from brew_data.split import Split, SplitConfig
from brew_platform.errors import DataError

SHARED = Path(__file__).parents[4] / "shared" / "data" / "ml-100k"

FILES = {
    "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    "1\t24\tM\twriter\t12345\n",
    "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n7\tHeat\t1995\tCrime\n",
    "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t7\t4\t100\n1\t7\t2\t50\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_movielens_becomes_tables_sorted_by_time(folder: Path) -> None:
    tables = read_movielens(folder)
    assert tables.interactions["action"].to_pylist() == ["rated_2", "rated_4"]
    assert micros(tables.interactions).to_pylist() == [50_000_000, 100_000_000]
    assert tables.members["profile"].to_pylist() == [{"age": "20s", "gender": "M", "occupation": "writer"}]
    assert "12345" not in str(tables.members.to_pylist())


@pytest.mark.skipif(not SHARED.exists(), reason="the real MovieLens files are not beside this checkout")
def test_the_real_files_give_the_protocols_cut() -> None:
    tables = read_movielens(SHARED)
    times = micros(tables.interactions).to_numpy()
    split = Split.of(times, SplitConfig(train_share=0.8))
    assert split.train_until == 889_237_269_000_000
    assert (times <= split.train_until).sum() == 80_003
    assert (times > split.train_until).sum() == 19_997


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("ml-100k.inter", "user\titem\n1\t2\n", "has the columns \\['user', 'item'\\], but .*rating:float"),
        ("ml-100k.inter", FILES["ml-100k.inter"] + "1\t7\tfour\t1\n", "line 4: rating 'four' at timestamp '1'"),
        ("ml-100k.inter", FILES["ml-100k.inter"] + "1\t7\t9\t1\n", "a rating is 1 to 5"),
        ("ml-100k.inter", FILES["ml-100k.inter"] + "1\t7\n", "line 4 has 2 values instead of 4"),
        ("ml-100k.inter", FILES["ml-100k.inter"] + "1\t99\t3\t1\n", "names entity_id '99', which the entities table"),
        ("ml-100k.user", "", "has the columns nothing"),
        ("ml-100k.item", FILES["ml-100k.item"].splitlines()[0], "has a header but no rows"),
        ("ml-100k.item", FILES["ml-100k.item"] + "7\tHeat\t1995\tCrime\n", "entity_id is repeated"),
    ],
)
def test_a_bad_file_is_refused_with_its_line_and_the_remedy(folder: Path, file: str, text: str, message: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(DataError, match=message):
        read_movielens(folder)


def test_a_missing_folder_or_file_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="is not a folder. Set --path to the folder that contains"):
        read_movielens(folder / "nowhere")
    (folder / "ml-100k.user").unlink()
    with pytest.raises(DataError, match=r"ml-100k\.user does not exist"):
        read_movielens(folder)


def test_tables_survive_a_round_trip_and_a_torn_file_is_refused(folder: Path, tmp_path: Path) -> None:
    tables = read_movielens(folder)
    write_tables(tables, tmp_path / "tables")
    assert read_tables(tmp_path / "tables") == tables
    (tmp_path / "tables" / "members.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_tables(tmp_path / "tables")


def test_tables_refuse_wrong_columns_and_order(folder: Path) -> None:
    good = read_movielens(folder)
    with pytest.raises(DataError, match="column 'locale' is missing"):
        Tables(members=good.members.drop(["locale"]), entities=good.entities, interactions=good.interactions)
    with pytest.raises(DataError, match="not sorted by timestamp"):
        Tables(members=good.members, entities=good.entities, interactions=good.interactions.take([1, 0]))
    index = good.interactions.column_names.index("timestamp")
    as_text = good.interactions.set_column(index, "timestamp", pa.array(["a", "b"]))
    with pytest.raises(DataError, match=f"column 'timestamp' is string, but {TIMESTAMP} is needed".replace("[", r"\[")):
        Tables(members=good.members, entities=good.entities, interactions=as_text)

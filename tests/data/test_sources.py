"""MovieLens files, table checks, suites and the split: what they read, and what they refuse and how."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from brew_data.prompts.suite import load_suite
from brew_data.prompts.tokenizer import Tokenizer, train_tokenizer
from brew_data.schema import TIMESTAMP, Tables, micros, read_tables, write_tables
from brew_data.sources.movielens import read_movielens
from brew_data.split import Split, SplitConfig
from brew_platform.errors import ConfigError, DataError, UserError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "ml-100k"

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
    with pytest.raises(DataError, match="is not a folder. Set --path to the folder that holds"):
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


def test_validation_cuts_inside_the_training_part() -> None:
    times = np.arange(100)
    assert Split.of(times, SplitConfig(train_share=0.8)) == Split(train_until=79, until=99)
    assert Split.of(times, SplitConfig(train_share=0.8, validation=True)) == Split(train_until=63, until=79)
    with pytest.raises(UserError, match="exactly one of train_share and last_days"):
        Split.of(times, SplitConfig())
    with pytest.raises(UserError, match="leaves no rows on one side"):
        Split.of(times, SplitConfig(last_days=400))


@pytest.mark.parametrize("name", ["economic_graph", "movielens"])
def test_shipped_suites_load_and_survive_a_round_trip(name: str) -> None:
    suite = load_suite(name)
    assert type(suite).from_dict(suite.to_dict()) == suite


def test_a_suite_that_does_not_exist_or_has_an_unknown_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a built-in suite \\(economic_graph, movielens\\) nor a folder"):
        load_suite("nope")
    (tmp_path / "suite.yaml").write_text("name: x\nprofil: [a]\nentities: {}\n")
    with pytest.raises(ConfigError, match="profil.*profile"):
        load_suite(tmp_path)


def test_phrases_of_absent_fields_are_left_out() -> None:
    suite = load_suite("economic_graph")
    assert suite.profile_text({"title": "nurse", "location": None, "skills": "care"}) == "nurse\ncare\n"


def test_a_list_is_one_line_each_and_no_field_can_forge_a_line() -> None:
    suite = load_suite("economic_graph")
    assert suite.profile_text({"title": "a\nb, c", "skills": "care, law"}) == "a b, c\ncare\nlaw\n"


def test_a_tokenizer_survives_its_folder_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["some words, some more words"], vocabulary_size=300)
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.encode("some <|user|> words é") == tokenizer.encode("some <|user|> words é")
    assert again.decode(again.encode("some <|user|> words é")) == "some <|user|> words é"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="is not a valid tokenizer file"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="vocabulary_size is 10; set it to at least 262"):
        train_tokenizer([""], vocabulary_size=10)

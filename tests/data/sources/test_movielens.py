"""`read_movielens` converts the files to tables and refuses malformed files by name and line."""

from pathlib import Path

import pyarrow as pa
import pytest

from brew_data.prompts.suite import load_suite
from brew_data.schema import TIMESTAMP, Tables, micros, read_tables, write_tables
from brew_data.sources.movielens import MovieLens, MovieLensConfig, read_movielens
from brew_data.split import Split, SplitConfig
from brew_platform.errors import ConfigError, DataError

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
        ("ml-100k.item", FILES["ml-100k.item"] + " \tHeat\t1995\tCrime\n", r"ml-100k\.item line 3 has the id ' '"),
        ("ml-100k.user", FILES["ml-100k.user"] + "\t24\tM\twriter\t1\n", r"ml-100k\.user line 3 has the id ''"),
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


RATINGS = "1\t7\t4\t881250949\n2\t7\t2\t881250948\n"
U_ITEM = "7|Misérables, Les (1995)|01-Jan-1995||http://us.imdb.com/M|" + "|".join(
    "1" if i in (6, 8) else "0" for i in range(19)
)
DAT = "1::7::4::978300760\n2::7::2::978300759\n"
HALVES = "1::7::4.5::978300760\n2::7::5::978300759\n"


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_the_100k_release_of_grouplens(tmp_path: Path) -> None:
    files = {
        "u.data": RATINGS.encode(),
        "u.item": (U_ITEM + "\n").encode("latin-1"),
        "u.user": b"1|24|M|technician|85711\n2|53|F|other|94043\n",
        "u.genre": b"unknown|0\n",
    }
    tables = read_movielens(write(tmp_path / "ml-100k", files))
    assert tables.interactions["action"].to_pylist() == ["rated_2", "rated_4"]
    assert tables.entities["fields"].to_pylist() == [{"title": "Misérables, Les (1995)", "genres": "Crime, Drama"}]
    assert tables.members["profile"].to_pylist()[1] == {"age": "50s", "gender": "F", "occupation": "other"}
    assert "85711" not in str(tables.members.to_pylist())


def test_the_1m_release(tmp_path: Path) -> None:
    files = {
        "ratings.dat": DAT.encode(),
        "movies.dat": "7::Misérables: Les (1995)::Drama|Musical\n".encode("latin-1"),
        "users.dat": b"1::F::1::10::48067\n2::M::56::16::70072\n",
    }
    tables = read_movielens(write(tmp_path / "ml-1m", files))
    assert tables.interactions["action"].to_pylist() == ["rated_2", "rated_4"]
    assert tables.entities["fields"].to_pylist() == [{"title": "Misérables: Les (1995)", "genres": "Drama, Musical"}]
    assert tables.members["profile"].to_pylist() == [
        {"age": "under 18", "gender": "F", "occupation": "K-12 student"},
        {"age": "56+", "gender": "M", "occupation": "self-employed"},
    ]


def test_a_film_is_shown_with_its_earlier_ratings(tmp_path: Path) -> None:
    rows = [(1, 7, 4, 100), (2, 7, 2, 200), (3, 7, 5, 200), (3, 8, 5, 200), (1, 8, 1, 300), (2, 8, 3, 300)]
    files = {
        "ratings.dat": "".join("::".join(map(str, row)) + "\n" for row in rows).encode(),
        "movies.dat": b"7::Heat (1995)::Crime\n8::Alien (1979)::Horror\n9::Up (2009)::Animation\n",
    }
    folder = write(tmp_path / "ml", files)
    tables = MovieLens(config=MovieLensConfig(averages=True), path=folder).read()
    plain = read_movielens(folder)
    assert tables.interactions.drop_columns("entity_id") == plain.interactions.drop_columns("entity_id")
    assert tables.interactions["entity_id"].to_pylist() == ["7@1", "7@2", "7@3", "8@4", "8@5", "8@6"]
    assert tables.entities["entity_id"].to_pylist() == tables.interactions["entity_id"].to_pylist()
    fields = tables.entities["fields"].to_pylist()
    first = {"title": "Heat (1995)", "genres": "Crime", "average": None, "ratings": "0", "member_bias": "+0.0"}
    assert fields[0] == first
    # Both of second 200 see the rating of second 100 alone; all films had the average 4.
    assert [(row["average"], row["ratings"]) for row in fields[1:4]] == [("4.0", "1"), ("4.0", "1"), ("4.0", "0")]
    alien = {"title": "Alien (1979)", "genres": "Horror", "average": "4.1", "ratings": "1"}
    # Member 1 rated when there was no average; member 2 gave 2 where the average was 4: -2 / (1 + 5).
    assert fields[4:] == [alien | {"member_bias": "+0.0"}, alien | {"member_bias": "-0.3"}]
    until = MovieLens(config=MovieLensConfig(averages=True, averages_until=150), path=folder).read()
    assert [row["average"] for row in until.entities["fields"].to_pylist()] == [None, "4.0", "4.0", "4.0", "4.0", "4.0"]
    with pytest.raises(ConfigError, match="Set averages to true"):
        MovieLensConfig(averages_until=150)
    template = load_suite("movielens").entities["movie"]
    assert template.render({"title": "Up", "average": "4.0", "ratings": "10"}) == "Up\naverage 4.0\nratings 10\n"


def test_the_10m_release_has_half_stars_and_no_users(tmp_path: Path) -> None:
    files = {"ratings.dat": HALVES.encode(), "movies.dat": "7::Café (1995)::Drama\n".encode(), "tags.dat": b""}
    folder = write(tmp_path / "ml-10m", files)
    tables = read_movielens(folder)
    assert tables.interactions["action"].to_pylist() == ["rated_5", "rated_4.5"]
    assert tables.members["profile"].to_pylist() == [{"age": None, "gender": None, "occupation": None}] * 2
    assert read_movielens(folder, half_stars="up").interactions["action"].to_pylist() == ["rated_5", "rated_5"]
    assert read_movielens(folder, half_stars="down").interactions["action"].to_pylist() == ["rated_5", "rated_4"]


def test_the_csv_releases(tmp_path: Path) -> None:
    files = {
        "ratings.csv": b"userId,movieId,rating,timestamp\n1,296,3.5,1147880044\n1,306,0.5,1147868817\n",
        "movies.csv": (
            'movieId,title,genres\n296,"Pulp ""Fiction"", A (1994)",Comedy|Crime\n306,É,(no genres listed)\n'.encode()
        ),
    }
    folder = write(tmp_path / "ml-25m", files)
    tables = read_movielens(folder)
    assert tables.interactions["action"].to_pylist() == ["rated_0.5", "rated_3.5"]
    assert tables.entities["fields"].to_pylist() == [
        {"title": 'Pulp "Fiction", A (1994)', "genres": "Comedy, Crime"}, {"title": "É", "genres": ""},
    ]  # fmt: skip
    actions = {action.name for action in load_suite("movielens_half_stars").surface("ratings").actions}
    assert {f"rated_{half / 2:g}" for half in range(1, 11)} == actions
    with pytest.raises(ConfigError, match="half_stars is 'round'"):
        MovieLensConfig(half_stars="round")


@pytest.mark.parametrize(
    ("rating", "timestamp"),
    [
        *((rating, "1") for rating in ("3.7", "inf", "nan", "1e400", "0", "5.5", "")),
        *(("4", timestamp) for timestamp in ("881250949000", "-1", "")),
    ],
)
def test_ratings_and_timestamps_out_of_range_are_refused_by_line(folder: Path, rating: str, timestamp: str) -> None:
    (folder / "ml-100k.inter").write_text(FILES["ml-100k.inter"] + f"1\t7\t{rating}\t{timestamp}\n")
    with pytest.raises(DataError, match=r"ml-100k\.inter line 4: rating .* seconds since 1970, not milliseconds"):
        read_movielens(folder)


def test_text_in_another_encoding_is_refused_by_line(folder: Path) -> None:
    (folder / "ml-100k.item").write_bytes(
        FILES["ml-100k.item"].encode() + "8\tMisérables\t1995\tDrama\n".encode("latin-1")
    )
    with pytest.raises(DataError, match=r"ml-100k\.item line 3: the line is not utf-8 text"):
        read_movielens(folder)
    (folder / "ml-100k.item").write_bytes(b"\xef\xbb\xbf" + FILES["ml-100k.item"].encode())
    assert read_movielens(folder).entities.num_rows == 1  # a byte-order mark is not part of the text


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

"""Reads MovieLens, in any release; the release is recognized by the names of the files.

| files | release |
|---|---|
| ml-100k.inter, ml-100k.item, ml-100k.user | 100K in RecBole's atomic format |
| u.data, u.item, u.user | 100K |
| ratings.dat, movies.dat, users.dat | 1M |
| ratings.dat, movies.dat | 10M, with half stars |
| ratings.csv, movies.csv | latest, 20M, 25M, 32M, with half stars |

The surface is `ratings`. A rating of n stars becomes the action `rated_n`, one of n and a half stars `rated_n.5`, which
the suite `movielens_half_stars` knows; `half_stars` can round them instead. The zip code is dropped, because it is
personal data that no prompt uses.

Source of the data: Harper and Konstan, "The MovieLens Datasets", ACM TiiS 2015; files.grouplens.org/datasets/movielens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.schema import TIMESTAMP, Tables
from brew_data.sources.formats.base import BadRow
from brew_data.sources.formats.delimited import DelimitedFile, TextFormat
from brew_data.sources.locations import Location, find_files
from brew_data.sources.rating_averages import add_rating_averages
from brew_data.sources.values import LONGEST_ID, floats
from brew_platform.errors import ConfigError, DataError
from brew_platform.settings import NonNegativeInt, OneOf, Settings

__all__ = ["MovieLens", "MovieLensConfig", "read_movielens"]

FOLDER = (
    "the folder that contains ml-100k.inter, ml-100k.item and ml-100k.user (RecBole), u.data, u.item and u.user "
    "(100K), ratings.dat and movies.dat (1M, 10M), or ratings.csv and movies.csv (20M, 25M, 32M, latest)"
)
ATOMIC = {
    "inter": ["user_id:token", "item_id:token", "rating:float", "timestamp:float"],
    "item": ["item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"],
    "user": ["user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token"],
}
RATINGS = ["userId", "movieId", "rating", "timestamp"]
GENRES_100K = [
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
]
AGES_1M = {
    "1": "under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49", "50": "50-55", "56": "56+",
}  # fmt: skip
OCCUPATIONS_1M = [
    *("other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service"),
    *("doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer"),
    *("retired", "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman"),
    *("unemployed", "writer"),
]
HALF_STARS = ("keep", "up", "down")
LATEST_SECONDS = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())


@dataclass(frozen=True, kw_only=True)
class MovieLensConfig(Settings):
    """The settings of the source `movielens`.

    Raises:
        ConfigError: `half_stars` is unknown, or `averages_until` is set without `averages`.
    """

    # 3.5 stars become: keep: rated_3.5 (suite movielens_half_stars); up: rated_4; down: rated_3.
    half_stars: Annotated[str, OneOf(HALF_STARS)] = "keep"
    # Show with each rating the average and number of its film's earlier ratings (`brew_data.sources.rating_averages`).
    averages: bool = False
    averages_until: NonNegativeInt | None = None  # seconds since 1970; later ratings are in no average. null: no limit

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.averages_until is not None and not self.averages:
            raise ConfigError(
                "averages_until is set, but no averages are shown. Set averages to true, or leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class MovieLens:
    """The source of MovieLens."""

    name: ClassVar[str] = "movielens"
    config_class: ClassVar[type] = MovieLensConfig
    suite: ClassVar[str] = "movielens"
    recipe: ClassVar[Path | None] = None
    path_contents: ClassVar[str | None] = FOLDER
    has_true_probabilities: ClassVar[bool] = False

    config: MovieLensConfig = field(default_factory=MovieLensConfig)
    path: Path

    def read(self) -> Tables:
        """Read the files.

        Raises:
            DataError: As in `read_movielens`.
        """
        tables = read_movielens(self.path, half_stars=self.config.half_stars)
        if not self.config.averages:
            return tables
        stars = [float(action.removeprefix("rated_")) for action in tables.interactions["action"].to_pylist()]
        until = self.config.averages_until
        return add_rating_averages(tables, np.array(stars), until=None if until is None else until * 1_000_000)

    def input_files(self) -> list[Location]:
        """Return the files that are read."""
        return find_files([str(path) for path in _release(self.path).files(self.path)])


def read_movielens(folder: Path, *, half_stars: str = "keep") -> Tables:
    """Read the MovieLens files in `folder`.

    Args:
        folder: As in `FOLDER`.
        half_stars: As in `MovieLensConfig`.

    Raises:
        DataError: The folder or a file is missing, a file has other columns, or a row cannot be read. The message has
            the file and the line.
    """
    release = _release(folder)
    for path in release.files(folder):
        if not path.exists():
            raise DataError(f"{path} does not exist. Set the path to {FOLDER}.")
    members, entities = release.members(folder), release.entities(folder)
    interactions = _interactions(release.ratings(folder), half_stars)
    if members is None:
        users = pc.unique(interactions["member_id"]).to_pylist()
        members = [(user, {"age": None, "gender": None, "occupation": None}) for user in users]
    profile = pa.struct([(name, pa.string()) for name in ("age", "gender", "occupation")])
    fields = pa.struct([("title", pa.string()), ("genres", pa.string())])
    return Tables(
        members=pa.table(
            {
                "member_id": pa.array([user for user, _ in members], pa.string()),
                "profile": pa.array([values for _, values in members], profile),
                "locale": ["en"] * len(members),
                "opted_out": [False] * len(members),
            }
        ),
        entities=pa.table(
            {
                "entity_id": pa.array([movie for movie, _, _ in entities], pa.string()),
                "entity_type": ["movie"] * len(entities),
                "created_at": pa.array([0] * len(entities), TIMESTAMP),
                "fields": pa.array([{"title": title, "genres": genres} for _, title, genres in entities], fields),
            }
        ),
        interactions=interactions,
    )


@dataclass(frozen=True, kw_only=True)
class _Release:
    """Where a release keeps what."""

    names: Sequence[str]
    ratings: Callable[[Path], DelimitedFile]
    entities: Callable[[Path], list[tuple[str, str, str]]]  # id, title, genres
    members: Callable[[Path], list[tuple[str, dict[str, str | None]]] | None]

    def files(self, folder: Path) -> list[Path]:
        return [folder / name for name in self.names]


def _release(folder: Path) -> _Release:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Set --path to {FOLDER}.")
    names = {path.name for path in folder.iterdir()}
    if "ratings.csv" in names:
        return CSV
    if "ratings.dat" in names:
        return DAT_WITH_USERS if "users.dat" in names else DAT
    if "u.data" in names:
        return U_FILES
    return RECBOLE


def _open(path: Path, **text_format: object) -> DelimitedFile:
    [location] = find_files([str(path)])
    return DelimitedFile(location, TextFormat(**text_format))  # type: ignore[arg-type]


def _rows(file: DelimitedFile) -> Iterator[tuple[str, list[str]]]:
    """Yield the place ("FILE line N") and the values of each row."""
    count = 0
    expected = len(file.columns())
    for line, row in file.rows():
        count += 1
        where = f"{file.location.name} line {line}"
        if isinstance(row, BadRow):
            if row.reason.startswith("the row has another number"):
                raise DataError(
                    f"{where} has {row.detail.split()[0]} values instead of {expected}: {row.text[:80]!r}. Correct or "
                    f"remove that line."
                )
            raise DataError(f"{where}: {row.reason}: {row.detail}. Correct or remove that line.")
        if not 0 < len(row[0].strip()) <= LONGEST_ID:
            raise DataError(f"{where} has the id {row[0][:80]!r}; an id has 1 to {LONGEST_ID} characters. Correct it.")
        yield where, row
    if not count:
        raise DataError(f"{file.location.name} has {'no rows' if file.format.header else 'a header but no rows'}.")


def _interactions(file: DelimitedFile, half_stars: str) -> pa.Table:
    names = file.columns()
    rating, timestamp = names[2], names[3]
    lines: list[int] = []
    parts = []
    for batch in file.batches(names[:4]):
        if batch.bad:
            for _ in _rows(file):  # raises with the line
                pass
        rows = batch.table
        stars, seconds = floats(rows[rating]), floats(rows[timestamp])
        stars_N = np.nan_to_num(stars.values.to_numpy(zero_copy_only=False), nan=0.0)
        seconds_N = np.nan_to_num(seconds.values.to_numpy(zero_copy_only=False), nan=-1.0)
        good = (stars_N * 2 == np.round(stars_N * 2)) & (stars_N >= 0.5) & (stars_N <= 5)
        good &= (seconds_N >= 0) & (seconds_N < LATEST_SECONDS)
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            [line] = file.lines([batch.first + row])
            raise DataError(
                f"{file.location.name} line {line}: rating {rows[rating][row].as_py()!r} at timestamp "
                f"{rows[timestamp][row].as_py()!r} cannot be read; a rating is 1 to 5 stars, or 0.5 to 5 in halves, "
                f"and a timestamp is seconds since 1970, not milliseconds. Correct or remove that line."
            )
        if half_stars != "keep":
            stars_N = np.ceil(stars_N) if half_stars == "up" else np.maximum(1, np.floor(stars_N))
        actions = pa.array([f"rated_{half / 2:g}" for half in range(11)])
        parts.append(
            pa.table(
                {
                    "member_id": rows[names[0]],
                    "entity_id": rows[names[1]],
                    "action": actions.take(pa.array((stars_N * 2).astype(np.int64))),
                    "seconds": pa.array(seconds_N.astype(np.int64)),
                }
            )
        )
        lines.append(rows.num_rows)
    if not sum(lines):
        raise DataError(f"{file.location.name} has {'no rows' if file.format.header else 'a header but no rows'}.")
    table = pa.concat_tables(parts)
    first = 1 if file.format.header else 2  # the id of an interaction is its line
    ids = np.arange(first, first + table.num_rows)
    order = pa.array(np.argsort(table["seconds"].to_numpy(), kind="stable"))
    table = table.append_column("interaction_id", pa.array(ids)).take(order)
    return pa.table(
        {
            "interaction_id": table["interaction_id"],
            "member_id": table["member_id"],
            "entity_id": table["entity_id"],
            "surface": pa.repeat(pa.scalar("ratings"), table.num_rows),
            "action": table["action"],
            "timestamp": pc.multiply(table["seconds"], 1_000_000).cast(TIMESTAMP),
        }
    )


def _atomic(folder: Path, kind: str) -> DelimitedFile:
    file = _open(folder / f"ml-100k.{kind}", delimiter="\t", quote="")
    columns = ATOMIC[kind]
    is_empty = not (folder / f"ml-100k.{kind}").stat().st_size
    if is_empty or file.columns() != columns:
        found = "nothing" if is_empty else file.columns()
        raise DataError(
            f"{file.location.name} has the columns {found}, but {columns} are needed (RecBole's atomic format, "
            f"separated by tabs). Convert the file, or pass the folder of the original one."
        )
    return file


def _atomic_entities(folder: Path) -> list[tuple[str, str, str]]:
    return [
        (item, f"{title} ({year})" if year else title, genres)
        for _, (item, title, year, genres) in _rows(_atomic(folder, "item"))
    ]


def _atomic_members(folder: Path) -> list[tuple[str, dict[str, str | None]]]:
    return [
        (user, {"age": _decade(age), "gender": gender, "occupation": occupation})
        for _, (user, age, gender, occupation, _zip) in _rows(_atomic(folder, "user"))
    ]


def _u_entities(folder: Path) -> list[tuple[str, str, str]]:
    names = ["movie id", "movie title", "release date", "video release date", "IMDb URL", *GENRES_100K]
    entities = []
    for where, (movie, title, _, _, _, *flags) in _rows(
        _open(folder / "u.item", delimiter="|", quote="", encoding="latin-1", header=names)
    ):
        if not set(flags) <= {"0", "1"}:
            raise DataError(f"{where}: the flags of the genres are {flags}, but must be 0 or 1. Correct that line.")
        genres = [genre for genre, flag in zip(GENRES_100K, flags, strict=True) if flag == "1" and genre != "unknown"]
        entities.append((movie, title, ", ".join(genres)))
    return entities


def _u_members(folder: Path) -> list[tuple[str, dict[str, str | None]]]:
    names = ["user id", "age", "gender", "occupation", "zip code"]
    return [
        (user, {"age": _decade(age), "gender": gender, "occupation": occupation})
        for _, (user, age, gender, occupation, _zip) in _rows(
            _open(folder / "u.user", delimiter="|", quote="", encoding="latin-1", header=names)
        )
    ]


def _dat_entities(encoding: str) -> Callable[[Path], list[tuple[str, str, str]]]:
    def entities(folder: Path) -> list[tuple[str, str, str]]:
        file = _open(
            folder / "movies.dat", delimiter="::", quote="", encoding=encoding, header=["MovieID", "Title", "Genres"]
        )
        return [(movie, title, _genres(genres)) for _, (movie, title, genres) in _rows(file)]

    return entities


def _dat_members(folder: Path) -> list[tuple[str, dict[str, str | None]]]:
    names = ["UserID", "Gender", "Age", "Occupation", "Zip-code"]
    members: list[tuple[str, dict[str, str | None]]] = []
    for where, (user, gender, age, occupation, _zip) in _rows(
        _open(folder / "users.dat", delimiter="::", quote="", encoding="latin-1", header=names)
    ):
        number = int(occupation) if occupation.isdecimal() else -1
        if age not in AGES_1M or not 0 <= number < len(OCCUPATIONS_1M):
            raise DataError(
                f"{where}: age {age!r} and occupation {occupation!r} must be codes of the 1M release (1, 18, ... 56; "
                f"0 to {len(OCCUPATIONS_1M) - 1}). Correct that line."
            )
        members.append((user, {"age": AGES_1M[age], "gender": gender, "occupation": OCCUPATIONS_1M[number]}))
    return members


def _csv(folder: Path, name: str, columns: list[str]) -> DelimitedFile:
    file = _open(folder / name)
    if file.columns() != columns:
        raise DataError(f"{file.location.name} has the columns {file.columns()}, but {columns} are needed.")
    return file


def _csv_entities(folder: Path) -> list[tuple[str, str, str]]:
    file = _csv(folder, "movies.csv", ["movieId", "title", "genres"])
    return [(movie, title.strip(), _genres(genres)) for _, (movie, title, genres) in _rows(file)]


def _genres(text: str) -> str:
    return "" if text == "(no genres listed)" else text.replace("|", ", ")


def _decade(age: str) -> str:
    return f"{int(age) // 10 * 10}s" if age.isdecimal() else ""


def _no_members(folder: Path) -> None:
    return None


RECBOLE = _Release(
    names=["ml-100k.user", "ml-100k.item", "ml-100k.inter"],
    ratings=lambda folder: _atomic(folder, "inter"),
    entities=_atomic_entities,
    members=_atomic_members,
)
U_FILES = _Release(
    names=["u.data", "u.item", "u.user"],
    ratings=lambda folder: _open(folder / "u.data", delimiter="\t", quote="", header=RATINGS),
    entities=_u_entities,
    members=_u_members,
)
DAT_WITH_USERS = _Release(
    names=["ratings.dat", "movies.dat", "users.dat"],
    ratings=lambda folder: _open(folder / "ratings.dat", delimiter="::", quote="", header=RATINGS),
    entities=_dat_entities("latin-1"),
    members=_dat_members,
)
DAT = _Release(
    names=["ratings.dat", "movies.dat"],
    ratings=lambda folder: _open(folder / "ratings.dat", delimiter="::", quote="", header=RATINGS),
    entities=_dat_entities("utf-8"),
    members=_no_members,
)
CSV = _Release(
    names=["ratings.csv", "movies.csv"],
    ratings=lambda folder: _csv(folder, "ratings.csv", RATINGS),
    entities=_csv_entities,
    members=_no_members,
)

"""The file formats of MovieLens; a release is recognized by the names of its files.

| files | release |
|---|---|
| ml-100k.inter, ml-100k.item, ml-100k.user | 100K in RecBole's atomic format |
| u.data, u.item, u.user | 100K |
| ratings.dat, movies.dat, users.dat | 1M |
| ratings.dat, movies.dat | 10M, with half stars |
| ratings.csv, movies.csv | latest, 20M, 25M, 32M, with half stars |

The zip code is dropped, because it is personal data that no prompt uses.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from brew_data.sources.formats.base import BadRow
from brew_data.sources.formats.delimited import DelimitedFile, TextFormat
from brew_data.sources.locations import find_files
from brew_data.sources.values import LONGEST_ID
from brew_platform.errors import DataError

__all__ = ["FOLDER", "Release", "find_release", "read_rows"]

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


@dataclass(frozen=True, kw_only=True)
class Release:
    """The files of a release, and how each is read."""

    names: Sequence[str]
    ratings: Callable[[Path], DelimitedFile]
    entities: Callable[[Path], list[tuple[str, str, str]]]  # id, title, genres
    members: Callable[[Path], list[tuple[str, dict[str, str | None]]] | None]

    def files(self, folder: Path) -> list[Path]:
        """The paths of the files."""
        return [folder / name for name in self.names]


def find_release(folder: Path) -> Release:
    """Recognize the release by the names of its files.

    Raises:
        DataError: The folder does not exist.
    """
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


def read_rows(file: DelimitedFile) -> Iterator[tuple[str, list[str]]]:
    """Yield the place ("FILE line N") and the values of each row.

    Raises:
        DataError: A row cannot be read, its first value is not an id, or there are no rows.
    """
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
        for _, (item, title, year, genres) in read_rows(_atomic(folder, "item"))
    ]


def _atomic_members(folder: Path) -> list[tuple[str, dict[str, str | None]]]:
    return [
        (user, {"age": _decade(age), "gender": gender, "occupation": occupation})
        for _, (user, age, gender, occupation, _zip) in read_rows(_atomic(folder, "user"))
    ]


def _u_entities(folder: Path) -> list[tuple[str, str, str]]:
    names = ["movie id", "movie title", "release date", "video release date", "IMDb URL", *GENRES_100K]
    entities = []
    for where, (movie, title, _, _, _, *flags) in read_rows(
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
        for _, (user, age, gender, occupation, _zip) in read_rows(
            _open(folder / "u.user", delimiter="|", quote="", encoding="latin-1", header=names)
        )
    ]


def _dat_entities(encoding: str) -> Callable[[Path], list[tuple[str, str, str]]]:
    def entities(folder: Path) -> list[tuple[str, str, str]]:
        file = _open(
            folder / "movies.dat", delimiter="::", quote="", encoding=encoding, header=["MovieID", "Title", "Genres"]
        )
        return [(movie, title, _genres(genres)) for _, (movie, title, genres) in read_rows(file)]

    return entities


def _dat_members(folder: Path) -> list[tuple[str, dict[str, str | None]]]:
    names = ["UserID", "Gender", "Age", "Occupation", "Zip-code"]
    members: list[tuple[str, dict[str, str | None]]] = []
    for where, (user, gender, age, occupation, _zip) in read_rows(
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
    return [(movie, title.strip(), _genres(genres)) for _, (movie, title, genres) in read_rows(file)]


def _genres(text: str) -> str:
    return "" if text == "(no genres listed)" else text.replace("|", ", ")


def _decade(age: str) -> str:
    return f"{int(age) // 10 * 10}s" if age.isdecimal() else ""


def _no_members(folder: Path) -> None:
    return None


RECBOLE = Release(
    names=["ml-100k.user", "ml-100k.item", "ml-100k.inter"],
    ratings=lambda folder: _atomic(folder, "inter"),
    entities=_atomic_entities,
    members=_atomic_members,
)
U_FILES = Release(
    names=["u.data", "u.item", "u.user"],
    ratings=lambda folder: _open(folder / "u.data", delimiter="\t", quote="", header=RATINGS),
    entities=_u_entities,
    members=_u_members,
)
DAT_WITH_USERS = Release(
    names=["ratings.dat", "movies.dat", "users.dat"],
    ratings=lambda folder: _open(folder / "ratings.dat", delimiter="::", quote="", header=RATINGS),
    entities=_dat_entities("latin-1"),
    members=_dat_members,
)
DAT = Release(
    names=["ratings.dat", "movies.dat"],
    ratings=lambda folder: _open(folder / "ratings.dat", delimiter="::", quote="", header=RATINGS),
    entities=_dat_entities("utf-8"),
    members=_no_members,
)
CSV = Release(
    names=["ratings.csv", "movies.csv"],
    ratings=lambda folder: _csv(folder, "ratings.csv", RATINGS),
    entities=_csv_entities,
    members=_no_members,
)

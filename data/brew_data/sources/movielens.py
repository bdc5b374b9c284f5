"""Reads MovieLens-100K from RecBole's atomic files (tab-separated, typed headers).

The surface is `ratings`. A rating of n stars becomes the action `rated_n`.

Source of the data: Harper and Konstan, "The MovieLens Datasets", ACM TiiS 2015.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from brew_data.schema import TIMESTAMP, Tables
from brew_data.sources.base import NoSettings
from brew_platform.errors import DataError

__all__ = ["MovieLens", "read_movielens"]

FOLDER = "the folder that contains ml-100k.inter, ml-100k.item and ml-100k.user"

COLUMNS = {
    "inter": ["user_id:token", "item_id:token", "rating:float", "timestamp:float"],
    "item": ["item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"],
    "user": ["user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token"],
}


@dataclass(frozen=True, kw_only=True)
class MovieLens:
    """The source of MovieLens-100K."""

    name: ClassVar[str] = "movielens"
    config_class: ClassVar[type] = NoSettings
    suite: ClassVar[str] = "movielens"
    recipe: ClassVar[Path | None] = None
    path_contents: ClassVar[str | None] = FOLDER
    has_true_probabilities: ClassVar[bool] = False

    config: NoSettings
    path: Path

    def read(self) -> Tables:
        """Read the files.

        Raises:
            DataError: As in `read_movielens`.
        """
        return read_movielens(self.path)


def read_movielens(folder: Path) -> Tables:
    """Read the MovieLens-100K files in `folder`.

    The zip code is dropped, because it is personal data that no prompt uses.

    Args:
        folder: The folder of ml-100k.inter, ml-100k.item and ml-100k.user.

    Returns:
        The tables, without an oracle.

    Raises:
        DataError: The folder or a file is missing, a file has other columns, or a row cannot be read. The message names
            the file and the line.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Set --path to {FOLDER}.")
    members, entities, interactions = [], [], []
    for _, (user, age, gender, occupation, _zip) in _rows(folder, "user"):
        profile = {"age": _decade(age), "gender": gender, "occupation": occupation}
        members.append({"member_id": user, "profile": profile, "locale": "en", "opted_out": False})
    for _, (item, title, year, genres) in _rows(folder, "item"):
        fields = {"title": f"{title} ({year})" if year else title, "genres": genres}
        entities.append({"entity_id": item, "entity_type": "movie", "created_at": 0, "fields": fields})
    for line, (user, item, rating, timestamp) in _rows(folder, "inter"):
        try:
            stars, seconds = int(float(rating)), int(float(timestamp))
        except ValueError:
            stars = 0
        if stars not in range(1, 6):
            raise DataError(
                f"{folder / 'ml-100k.inter'} line {line}: rating {rating!r} at timestamp {timestamp!r} cannot be read; "
                f"a rating is 1 to 5, a timestamp is seconds since 1970. Correct or remove that line."
            )
        interactions.append((seconds * 1_000_000, line, user, item, f"rated_{stars}"))
    interactions.sort(key=lambda row: row[:2])
    times, lines, users, items, actions = (list(column) for column in zip(*interactions, strict=True))
    return Tables(
        members=pa.Table.from_pylist(members),
        entities=_with_timestamps(pa.Table.from_pylist(entities), "created_at"),
        interactions=pa.table(
            {
                "interaction_id": pa.array(lines, pa.int64()),
                "member_id": users,
                "entity_id": items,
                "surface": ["ratings"] * len(lines),
                "action": actions,
                "timestamp": pa.array(times, TIMESTAMP),
            }
        ),
    )


def _rows(folder: Path, kind: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the values of each row; the header is line 1."""
    path = folder / f"ml-100k.{kind}"
    if not path.exists():
        raise DataError(f"{path} does not exist. Set --path to {FOLDER}.")
    columns = COLUMNS[kind]
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].split("\t") != columns:
        found = lines[0].split("\t") if lines else "nothing"
        raise DataError(
            f"{path} has the columns {found}, but {columns} are needed (RecBole's atomic format, separated by tabs). "
            f"Convert the file, or pass the folder of the original one."
        )
    if len(lines) == 1:
        raise DataError(f"{path} has a header but no rows. Copy the whole file.")
    for number, line in enumerate(lines[1:], start=2):
        values = line.split("\t")
        if len(values) != len(columns):
            raise DataError(
                f"{path} line {number} has {len(values)} values instead of {len(columns)}: {line[:80]!r}. "
                f"Correct or remove that line."
            )
        yield number, values


def _decade(age: str) -> str:
    return f"{int(age) // 10 * 10}s" if age.isdigit() else ""


def _with_timestamps(table: pa.Table, column: str) -> pa.Table:
    index = table.column_names.index(column)
    return table.set_column(index, column, table[column].cast(pa.int64()).cast(TIMESTAMP))

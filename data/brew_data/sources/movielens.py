"""Reads MovieLens, in any release (`brew_data.sources.movielens_releases`).

The surface is `ratings`. A rating of n stars becomes the action `rated_n`, one of n and a half stars `rated_n.5`, which
the suite `movielens_half_stars` knows; `half_stars` can round them instead.

Source of the data: Harper and Konstan, "The MovieLens Datasets", ACM TiiS 2015; files.grouplens.org/datasets/movielens.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.schema import TIMESTAMP, Tables
from brew_data.sources.formats.delimited import DelimitedFile
from brew_data.sources.locations import Location, find_files
from brew_data.sources.movielens_releases import FOLDER, find_release, read_rows
from brew_data.sources.rating_averages import add_rating_averages
from brew_data.sources.values import floats
from brew_platform.errors import ConfigError, DataError
from brew_platform.settings import NonNegativeInt, OneOf, Settings

__all__ = ["MovieLens", "MovieLensConfig", "read_movielens"]

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
    # Show with each rating the average and number of the film's earlier ratings, and the member's bias until then
    # (`brew_data.sources.rating_averages`).
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
        return find_files([str(path) for path in find_release(self.path).files(self.path)])


def read_movielens(folder: Path, *, half_stars: str = "keep") -> Tables:
    """Read the MovieLens files in `folder`.

    Args:
        folder: As in `FOLDER`.
        half_stars: As in `MovieLensConfig`.

    Raises:
        DataError: The folder or a file is missing, a file has other columns, or a row cannot be read. The message has
            the file and the line.
    """
    release = find_release(folder)
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


def _interactions(file: DelimitedFile, half_stars: str) -> pa.Table:
    names = file.columns()
    rating, timestamp = names[2], names[3]
    lines: list[int] = []
    parts = []
    for batch in file.batches(names[:4]):
        if batch.bad:
            for _ in read_rows(file):  # raises with the line
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

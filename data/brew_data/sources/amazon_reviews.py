"""Reads Amazon Reviews, in the releases of 2018 and 2023: JSON lines of reviews and of product metadata.

| | reviews | products | time |
|---|---|---|---|
| 2018 | reviewerID, asin, overall, unixReviewTime | asin, title, brand, category | seconds |
| 2023 | user_id, parent_asin, rating, timestamp | parent_asin, title, store, categories | milliseconds |

The release is recognized by the columns. The surface is `reviews`; a rating of n stars becomes the action `rated_n`.
Files whose name begins with `meta_` are product metadata; the other `.json`, `.jsonl`, `.json.gz` and `.jsonl.gz` files
of the folder are reviews. Products that the metadata repeat, and reviews of products without metadata, go to the
quarantine.

Sources: Ni, Li, McAuley, EMNLP 2019 (2018); Hou et al., arXiv:2403.03952 (2023).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from brew_data.problems import Problem
from brew_data.schema import Tables
from brew_data.sources.base import NoSettings
from brew_data.sources.formats.json_lines import JsonLinesFile
from brew_data.sources.locations import Location, find_files
from brew_data.sources.quarantine import Quarantine
from brew_data.sources.tables.config import EntitiesConfig, InteractionsConfig, TablesConfig
from brew_data.sources.tables.source import OwnTables
from brew_platform.errors import BrewError, DataError

__all__ = ["AmazonReviews"]

FOLDER = "a folder with reviews (Gift_Cards.jsonl.gz) and product metadata (meta_Gift_Cards.jsonl.gz)"
SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
STARS = {str(stars): f"rated_{stars}" for stars in range(1, 6)}
COLUMNS = {
    2018: {"member_id": "reviewerID", "entity_id": "asin", "action": "overall", "timestamp": "unixReviewTime"},
    2023: {"member_id": "user_id", "entity_id": "parent_asin", "action": "rating", "timestamp": "timestamp"},
}
FIELDS = {
    2018: {"title": "title", "brand": "brand", "categories": "category"},
    2023: {"title": "title", "brand": "store", "categories": "categories"},
}
UNITS = {2018: "seconds", 2023: "milliseconds"}


@dataclass(frozen=True, kw_only=True)
class AmazonReviews:
    """The source of Amazon Reviews 2018 and 2023."""

    name: ClassVar[str] = "amazon_reviews"
    config_class: ClassVar[type] = NoSettings
    suite: ClassVar[str] = "amazon_reviews"
    recipe: ClassVar[Path | None] = None
    path_contents: ClassVar[str | None] = FOLDER
    has_true_probabilities: ClassVar[bool] = False

    config: NoSettings = field(default_factory=NoSettings)
    path: Path

    def read(self) -> Tables:
        """Read the tables; every row must fit.

        Raises:
            DataError: A file or a row cannot be read.
        """
        return self._tables().read()

    def input_files(self) -> list[Location]:
        """Return the files that are read."""
        return self._tables().input_files()

    def find_problems(self) -> list[Problem]:
        """Check that reviews and metadata are there and have the columns of a release."""
        try:
            return self._tables().find_problems()
        except BrewError as error:
            return [Problem(table="reviews", message=str(error))]

    def read_rows(self, quarantine: Quarantine) -> Tables:
        """Read the tables, and send rows that do not fit to the quarantine.

        Raises:
            DataError: A file cannot be read, or no row is left.
        """
        return self._tables().read_rows(quarantine)

    def _tables(self) -> OwnTables:
        if not self.path.is_dir():
            raise DataError(f"{self.path} is not a folder. Set the path to {FOLDER}.")
        names = sorted(str(path) for path in self.path.iterdir() if path.name.endswith(SUFFIXES))
        products = [name for name in names if Path(name).name.startswith("meta_")]
        reviews = [name for name in names if name not in products]
        if not reviews or not products:
            missing = "product metadata (meta_*)" if reviews else "reviews"
            raise DataError(f"{self.path} has no {missing}. Set the path to {FOLDER}.")
        release = _release(reviews)
        return OwnTables(
            config=TablesConfig(
                interactions=InteractionsConfig(
                    files=reviews,
                    format="jsonl",
                    columns=COLUMNS[release],
                    constants={"surface": "reviews"},
                    values={"action": STARS},
                    time_format=UNITS[release],
                ),
                entities=EntitiesConfig(
                    files=products,
                    format="jsonl",
                    columns={"entity_id": COLUMNS[release]["entity_id"]},
                    constants={"entity_type": "product"},
                    fields=FIELDS[release],
                ),
            )
        )


def _release(reviews: list[str]) -> int:
    [location] = find_files(reviews[:1])
    columns = JsonLinesFile(location).columns()
    for release, mapping in COLUMNS.items():
        if set(mapping.values()) <= set(columns):
            return release
    needed = "; ".join(f"{release}: {', '.join(mapping.values())}" for release, mapping in COLUMNS.items())
    raise DataError(
        f"{location.name} has the columns {', '.join(columns) or 'none'}, but the releases have other ones ({needed}). "
        f"Pass a folder with the original files."
    )

"""Both releases of Amazon Reviews become tables; the release decides columns and the unit of time."""

import gzip
import json
from pathlib import Path

import pytest

from brew_data.schema import micros
from brew_data.sources.amazon_reviews import AmazonReviews
from brew_data.sources.quarantine import Quarantine
from brew_platform.errors import DataError

REVIEWS_2018 = [
    {"overall": 5.0, "verified": True, "reviewTime": "09 13, 2009", "reviewerID": "A2", "asin": "0000031", "style":
     {"Color:": " red"}, "reviewerName": "n", "reviewText": "t", "summary": "s", "unixReviewTime": 1252800000},
    {"overall": 2.0, "verified": False, "reviewTime": "09 14, 2009", "reviewerID": "A1", "asin": "0000031",
     "unixReviewTime": 1252886400},
]  # fmt: skip
META_2018 = [
    {"category": ["Clothing", "Shoes"], "description": ["d"], "title": "Tutu", "brand": "Coxlures", "price": "$3.17",
     "asin": "0000031", "also_buy": []},
]  # fmt: skip
REVIEWS_2023 = [
    {"rating": 4.0, "title": "Great", "text": "x", "images": [], "asin": "B00YQ", "parent_asin": "B00PA",
     "user_id": "AGKH", "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": True},
]  # fmt: skip
META_2023 = [
    {"main_category": "Beauty", "title": "Spray", "average_rating": 4.8, "rating_number": 10, "features": [],
     "description": [], "price": None, "images": [], "videos": [], "store": "Howard", "categories": [], "details": {},
     "parent_asin": "B00PA", "bought_together": None},
]  # fmt: skip


def write(path: Path, rows: list[dict]) -> None:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_the_release_of_2018(tmp_path: Path) -> None:
    write(tmp_path / "Clothing_5.json.gz", REVIEWS_2018)
    write(tmp_path / "meta_Clothing.json.gz", META_2018)
    tables = AmazonReviews(path=tmp_path).read()
    assert tables.interactions["action"].to_pylist() == ["rated_5", "rated_2"]
    assert micros(tables.interactions).to_pylist()[0] == 1_252_800_000_000_000
    assert tables.interactions["entity_id"].to_pylist() == ["0000031"] * 2
    assert tables.entities["fields"].to_pylist() == [
        {"title": "Tutu", "brand": "Coxlures", "categories": "Clothing, Shoes"}
    ]


def test_the_release_of_2023(tmp_path: Path) -> None:
    write(tmp_path / "All_Beauty.jsonl", REVIEWS_2023)
    write(tmp_path / "meta_All_Beauty.jsonl", META_2023)
    tables = AmazonReviews(path=tmp_path).read()
    assert micros(tables.interactions).to_pylist() == [1_588_687_728_923_000]
    assert tables.interactions["entity_id"].to_pylist() == ["B00PA"]
    assert tables.entities["fields"].to_pylist() == [{"title": "Spray", "brand": "Howard", "categories": None}]


def test_repeated_products_and_unknown_ratings_go_to_the_quarantine(tmp_path: Path) -> None:
    write(
        tmp_path / "a.jsonl", [*REVIEWS_2023, REVIEWS_2023[0] | {"rating": 4.5}, REVIEWS_2023[0] | {"parent_asin": "?"}]
    )
    write(tmp_path / "meta_a.jsonl", META_2023 * 2)
    quarantine = Quarantine()
    assert AmazonReviews(path=tmp_path).read_rows(quarantine).interactions.num_rows == 1
    assert quarantine.counts() == {
        "interactions": {
            "action (column 'rating') has a value that `values` does not list": 1,
            "entity_id is not in the entities": 1,
        },
        "entities": {"entity_id occurs before; ids must be unique": 1},
    }


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no reviews. Set the path to"):
        AmazonReviews(path=tmp_path).read()
    write(tmp_path / "a.jsonl", [{"stars": 4}])
    with pytest.raises(DataError, match=r"has no product metadata \(meta_\*\)"):
        AmazonReviews(path=tmp_path).read()
    write(tmp_path / "meta_a.jsonl", META_2023)
    [problem] = AmazonReviews(path=tmp_path).find_problems()
    assert "has the columns stars, but the releases have other ones (2018: reviewerID, asin" in problem.message

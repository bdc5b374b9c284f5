"""Files on S3 are found and read."""

from collections.abc import Iterator

import pytest

from brew_data.sources.formats.delimited import DelimitedFile
from brew_data.sources.locations import find_files
from brew_platform.errors import DataError

from ...s3_store import s3_store

OBJECTS = {"shop/2024/a.csv": b"id,n\n1,010\n", "shop/2024/b.csv": b"id,n\n2,x\n", "shop/readme.txt": b"hello"}


@pytest.fixture
def store() -> Iterator[None]:
    with s3_store(OBJECTS):
        yield


def test_objects_are_found_by_address_and_by_glob(store: None) -> None:
    found = find_files(["s3://bucket/shop/2024/*.csv"])
    assert [location.name for location in found] == ["s3://bucket/shop/2024/a.csv", "s3://bucket/shop/2024/b.csv"]
    [batch] = DelimitedFile(found[0]).batches(["n", "id"])
    assert batch.table.to_pylist() == [{"n": "010", "id": "1"}]
    assert len(found[0].digest()) == 64
    assert find_files(["s3://bucket/shop/2024/b.csv"])[0].path == "bucket/shop/2024/b.csv"
    for address in ("s3://bucket/shop/none.csv", "s3://bucket/other/*.csv"):
        with pytest.raises(DataError, match="matches no object|cannot be read"):
            find_files([address])

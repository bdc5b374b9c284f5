"""Stores for tests: a local folder, moto, and a Ceph RGW."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..s3_servers import make_bucket, moto_server, rgw_server, s3_environment

BACKENDS = ["local", "moto", pytest.param("rgw", marks=pytest.mark.real)]
_buckets = itertools.count(1)


@pytest.fixture(scope="session")
def moto() -> Iterator[dict[str, str]]:
    """The variables of the environment that name moto's server."""
    with moto_server() as variables:
        yield variables


@pytest.fixture(scope="session")
def rgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables of the environment that name a Ceph RGW."""
    with rgw_server(tmp_path_factory.mktemp("rgw")) as variables:
        yield variables


@pytest.fixture(params=BACKENDS)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty store, on each backend."""
    if request.param == "local":
        yield str(tmp_path / "store")
        return
    variables, bucket = request.getfixturevalue(request.param), f"bucket-{next(_buckets)}"
    make_bucket(bucket, variables)
    with s3_environment(variables):
        yield f"s3://{bucket}/some/prefix"

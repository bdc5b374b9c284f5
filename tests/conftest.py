"""Shared by all tests: their order, interrupts, a separate home folder, and small bins."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from brew_data.packed_bins.plan import BinsFile, BinsPlan, digest_file

settings.register_profile("brew", deadline=None)  # the time of an example depends on the load of the machine
settings.load_profile("brew")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run quick tests first, and tests that start real components last."""
    items.sort(key=lambda item: item.get_closest_marker("real") is not None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Handle SIGINT as in a terminal, before the fixtures of a test start processes.

    A shell starts background jobs with SIGINT ignored. A command that ends with an error ignores it too, because its
    process exits then; a test that runs the command in its own process does not.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """With `-n 2 --dist loadscope`, run the tests of each group one after another, and the groups side by side."""
    return _Groups(config, log) if config.getoption("dist") == "loadscope" else None


class _Groups(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return _group(self.config.rootpath / nodeid.split("::")[0])


@cache
def _group(file: Path) -> str:
    """Return the group of a test file.

    `brew360 serve down` stops every Ray that a command of this user left running, so one such test runs at a time.
    """
    text = file.read_text()
    if "pytest.mark.ray" in text or "stop_ray" in text:
        return "Ray that commands start"
    return "Ray in the test's process" if "running_ray import" in text else "no Ray"


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Set one home folder for the whole session. Ray writes its token there once per process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def write_bins() -> Callable[..., Path]:
    """Return a function that writes bins of counting sequences, which a small model learns within a few steps."""

    def write(folder: Path, *, n_bins: int = 12, seed: int = 7, **changes: Any) -> Path:
        vocabulary, context = 97, 64
        folder.mkdir(parents=True)
        random = np.random.default_rng(seed)
        rows = []
        for bin_id in range(n_bins):
            lengths = [int(n) for n in random.integers(3, context // 4, size=4)]
            ids = [(int(random.integers(vocabulary)) + i) % vocabulary for n in lengths for i in range(n)]
            roles = [int(i >= n - 2) for n in lengths for i in range(n)]
            rows.append({"bin_id": bin_id, "input_ids": ids, "doc_lengths": lengths, "roles": roles})
        schema = pa.schema(
            {
                "bin_id": pa.int64(),
                "input_ids": pa.list_(pa.int32()),
                "doc_lengths": pa.list_(pa.int32()),
                "roles": pa.list_(pa.uint8()),
            }
        )
        files = []
        for part, some in enumerate((rows[: n_bins // 2], rows[n_bins // 2 :])):
            path = folder / f"bins-{part:05d}.parquet"
            pq.write_table(pa.Table.from_pylist(some, schema=schema), path)
            files.append(BinsFile(name=path.name, sha256=digest_file(path), bytes=path.stat().st_size, bins=len(some)))
        tokens = sum(len(row["input_ids"]) for row in rows)
        plan = BinsPlan(
            context_length=context,
            vocabulary_size=vocabulary,
            prompt_digest="",
            n_bins=n_bins,
            n_documents=4 * n_bins,
            n_tokens=tokens,
            fill=tokens / (n_bins * context),
            files=files,
        )
        replace(plan, **changes).sealed().write(folder)
        return folder

    return write

"""A build of a data set that ended early is continued: the result is that of a build without interruption."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from brew_cluster.jobs import dataset
from brew_cluster.jobs.dataset import build_folder, make_dataset, phase_names
from brew_cluster.jobs.dataset_config import DatasetConfig, load_dataset_config
from brew_data.data_folder import DataFolder
from brew_data.packed_bins.plan import BinsPlan
from brew_data.pipelines import documents
from brew_data.schema import Tables
from brew_data.sources.synthetic.source import Synthetic
from brew_platform.config import config_digest
from brew_platform.console.progress import Phases

SETTINGS = [
    "source_config.members=120", "source_config.jobs=30", "source_config.posts=30",
    "source_config.interactions_per_member=20", "tokenizer.vocabulary_size=400", "pairs=20",
]  # fmt: skip


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> DatasetConfig:
    """A small recipe that is built in this process, without Ray."""

    @contextmanager
    def no_ray(**options: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(dataset, "local_ray", no_ray)
    return load_dataset_config("synthetic", SETTINGS)


def build(config: DatasetConfig, out: Path) -> DataFolder:
    with build_folder(out, settings=config_digest(config)) as partial:
        make_dataset(config, partial, Phases(phase_names(config)))
    return DataFolder.open(out)


def plans(data: DataFolder) -> dict[str, BinsPlan]:
    return {name: BinsPlan.load(data.folder / name) for name in ("bins", "evaluation", "pairs", "pairs-evaluation")}


@pytest.mark.parametrize(
    ("step", "call", "reads"),
    [
        ("_pack_shard", 0, 0),
        ("_write_shard", 0, 0),
        ("_pack_shard", 1, 0),
        ("build_pairs", 0, 0),
        ("check_dataset", 0, 1),
    ],
)
def test_a_build_continues_after_the_last_finished_step(
    config: DatasetConfig, step: str, call: int, reads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build(config, tmp_path / "whole")
    module = documents if step.startswith("_") else dataset
    original, calls = getattr(module, step), []

    def failing(*arguments: object, **options: object) -> Iterator[pa.Table]:
        calls.append(step)
        if len(calls) == call + 1:
            raise RuntimeError("killed")
        result: Iterator[pa.Table] = original(*arguments, **options)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(module, step, failing)
        with pytest.raises(RuntimeError, match="killed"):
            build(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    sources: list[Synthetic] = []
    read = Synthetic.read

    def counting(source: Synthetic) -> Tables:
        sources.append(source)
        return read(source)

    monkeypatch.setattr(Synthetic, "read", counting)
    continued = build(config, tmp_path / "out")
    assert len(sources) == reads
    assert plans(continued) == plans(whole)
    assert continued.info == whole.info
    assert sorted(path.name for path in continued.folder.iterdir()) == sorted(
        path.name for path in whole.folder.iterdir()
    )

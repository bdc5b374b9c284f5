"""Training reads bins from S3 as from a local folder."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from brew_platform.errors import BrewError, ConfigError, DataError, UserError
from brew_train.config import InputsConfig, ModelShape, TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.bin_folder import absolute, read_plan
from brew_train.inputs.bin_reader import BinReader
from brew_train.loop import train
from brew_train.run_context import RunContext

from ...s3_store import s3_store


@pytest.fixture
def objects(bins: dict[str, Path]) -> Iterator[dict[str, bytes]]:
    """The objects of a store that has the folders `cpt` and `sft`; changes of the mapping change the store."""
    objects = {
        f"data/{name}/{path.name}": path.read_bytes() for name, folder in bins.items() for path in folder.iterdir()
    }
    with s3_store(objects):
        yield objects


@pytest.fixture
def inputs(tmp_path: Path) -> InputsConfig:
    return InputsConfig(cache_folder=str(tmp_path / "cache"))


def test_bins_on_s3_are_those_of_the_folder(
    objects: dict[str, bytes], bins: dict[str, Path], shape: ModelShape, inputs: InputsConfig, tmp_path: Path
) -> None:
    local, remote = BinReader(bins["cpt"], shape), BinReader("s3://bucket/data/cpt/", shape, inputs)
    assert (remote.plan_hash, remote.n_bins, remote.kind) == (local.plan_hash, local.n_bins, local.kind)
    remote.verify()
    assert not (tmp_path / "cache").exists()  # nothing is downloaded before it is needed
    for bin_id in (11, 0, 5, 6):
        assert vars(remote[bin_id]).keys() == vars(local[bin_id]).keys()
        for name, array in vars(local[bin_id]).items():
            assert getattr(remote[bin_id], name).tolist() == array.tolist()
    objects.clear()
    assert len(remote[11].input_ids) > 0  # from the cache of this host
    assert read_plan(bins["cpt"]).plan_hash == local.plan_hash
    assert absolute("s3://bucket/data/cpt") == "s3://bucket/data/cpt"
    assert absolute(Path("bins")) == Path.cwd() / "bins"


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"plan.json": None}, DataError, r"s3://bucket/data/cpt/plan\.json matches no object"),
        ({"plan.json": b"{"}, DataError, r"^s3://bucket/data/cpt/plan\.json is not a JSON object"),
        ({"bins-00000.parquet": None}, DataError, r"^s3://bucket/data/cpt/bins-00000\.parquet is missing"),
        ({"bins-00000.parquet": b"x"}, DataError, r"^s3://bucket/data/cpt/bins-00000\.parquet has 1 bytes, but"),
        ({"bins-00002.parquet": b"x"}, DataError, r"^s3://bucket/data/cpt/bins-00002\.parquet is not in plan\.json"),
    ],
)
def test_faults_of_a_folder_on_s3_are_named_before_training(
    objects: dict[str, bytes],
    shape: ModelShape,
    inputs: InputsConfig,
    change: dict[str, bytes | None],
    error: type[BrewError],
    text: str,
) -> None:
    for name, data in change.items():
        objects.pop(f"data/cpt/{name}", None)
        if data is not None:
            objects[f"data/cpt/{name}"] = data
    with pytest.raises(error, match=text):
        BinReader("s3://bucket/data/cpt", shape, inputs)


def test_a_replaced_object_of_the_same_size_is_found_when_it_is_loaded(
    objects: dict[str, bytes], shape: ModelShape, inputs: InputsConfig
) -> None:
    key = "data/cpt/bins-00001.parquet"
    objects[key] = bytes(len(objects[key]))
    reader = BinReader("s3://bucket/data/cpt", shape, inputs)
    assert len(reader[0].input_ids) > 0
    with pytest.raises(DataError, match=r"^s3://bucket/data/cpt/bins-00001\.parquet was replaced or damaged"):
        reader[11]


def test_a_cache_that_is_too_small_is_refused_or_reported(
    objects: dict[str, bytes], shape: ModelShape, inputs: InputsConfig, caplog: pytest.LogCaptureFixture
) -> None:
    largest = max(len(objects[f"data/cpt/bins-0000{i}.parquet"]) for i in (0, 1))
    with pytest.raises(ConfigError, match=r"^train\.inputs\.cache_bytes is 10, but a file of s3://.* raise it"):
        BinReader("s3://bucket/data/cpt", shape, replace(inputs, cache_bytes=10))
    reader = BinReader("s3://bucket/data/cpt", shape, replace(inputs, cache_bytes=largest))
    assert "a host downloads its files several times in each epoch" in caplog.text
    assert [len(reader[bin_id].input_ids) > 0 for bin_id in (0, 11, 0)] == [True] * 3


@pytest.mark.parametrize("address", ["ftp://bucket/data/cpt", "s3://key:secret@bucket/data/cpt"])
def test_other_addresses_are_refused(shape: ModelShape, address: str) -> None:
    with pytest.raises(UserError, match="scheme ftp:// is not supported|has credentials") as caught:
        BinReader(address, shape)
    assert "secret" not in str(caught.value)


def test_a_relative_cache_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^cache_folder is 'cache', a relative path.*give an absolute path"):
        InputsConfig(cache_folder="cache")


def test_losses_are_bitwise_those_of_local_bins(
    objects: dict[str, bytes],
    bins: dict[str, Path],
    config: TrainConfig,
    shape: ModelShape,
    inputs: InputsConfig,
    alone: DistributedContext,
    tmp_path: Path,
) -> None:
    folders: dict[str, dict[str, Path | str]] = {
        "local": {**bins},
        "s3": {name: f"s3://bucket/data/{name}" for name in bins},
    }
    losses = []
    for name, prefetch_bytes in (("local", 0), ("s3", 2**20)):
        settings = replace(config, inputs=replace(inputs, prefetch_bytes=prefetch_bytes))
        run = RunContext(bins=folders[name], out=tmp_path / name, shape=shape, distributed=alone)
        train(settings, run)
        rows = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(row)["loss"] for row in rows])
        assert all(json.loads(row)["data_wait_seconds"] >= 0 for row in rows)
    assert losses[0] == losses[1]
    assert len(losses[0]) == 10


def test_files_are_fetched_several_at_a_time_and_errors_are_left_to_the_reader(
    objects: dict[str, bytes], shape: ModelShape, inputs: InputsConfig, tmp_path: Path
) -> None:
    reader = BinReader("s3://bucket/data/cpt", shape, inputs)
    objects["data/cpt/bins-00001.parquet"] = b"replaced"
    reader.fetch([11, 0, 11])
    objects.clear()
    assert len(reader[0].input_ids) > 0
    with pytest.raises(DataError, match=r"bins-00001\.parquet cannot be read"):
        reader[11]

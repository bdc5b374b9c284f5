"""A build of a data set that ended early is continued: the result is that of a build without interruption."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from brew_cluster.jobs import dataset, dataset_tables
from brew_cluster.jobs.build_folder import build_folder
from brew_cluster.jobs.dataset import make_dataset, phase_names
from brew_cluster.jobs.dataset_card import read_card
from brew_cluster.jobs.dataset_config import DatasetConfig, load_dataset_config
from brew_data.corpora.config import CorpusConfig, CorpusSourceConfig
from brew_data.data_folder import DataFolder
from brew_data.packed_bins.plan import FORMAT_VERSION, SLATES_VERSION, BinsPlan
from brew_data.pipelines import corpus_documents, shard_packing
from brew_data.prompts.suite import SUITES
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

    monkeypatch.setattr(dataset, "any_ray", no_ray)
    return load_dataset_config("synthetic", SETTINGS)


def build(config: DatasetConfig, out: Path) -> DataFolder:
    with build_folder(out, settings=config_digest(config)) as partial:
        make_dataset(config, partial, Phases(phase_names(config)))
    return DataFolder.open(out)


def plans(data: DataFolder) -> dict[str, BinsPlan]:
    return {name: BinsPlan.load(data.folder / name) for name in ("bins", "evaluation", "pairs", "pairs-evaluation")}


@pytest.mark.parametrize(
    ("module", "step", "call", "reads"),
    [
        (shard_packing, "_pack_shard", 0, 0),
        (shard_packing, "_write_shard", 0, 0),
        (shard_packing, "_pack_shard", 1, 0),
        (dataset, "build_pairs", 0, 0),
        (dataset_tables, "check_dataset", 0, 1),
    ],
)
def test_a_build_continues_after_the_last_finished_step(
    config: DatasetConfig,
    module: ModuleType,
    step: str,
    call: int,
    reads: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = build(config, tmp_path / "whole")
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


@pytest.mark.parametrize("call", [0, 2])
def test_corpora_have_bins_of_their_own_and_continue(
    config: DatasetConfig, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": chat}))
    sources = {
        "members": CorpusSourceConfig(kind="profiles", weight=3),
        "entities": CorpusSourceConfig(kind="entities", weight=1),
    }
    chats = CorpusSourceConfig(kind="conversations", path=str(tmp_path / "chats.jsonl"))
    corpora = {"cpt": CorpusConfig(sources=sources, tokens=2_000), "chats": CorpusConfig(sources={"all": chats})}
    config = replace(config, corpora=corpora)
    whole = build(config, tmp_path / "whole")
    card = read_card(whole.folder)
    assert list(card["mix"]) == ["cpt", "chats"]
    assert card["mix"]["cpt"]["tokens"] == card["bins"]["cpt"]["n_tokens"] <= 2_000
    assert card["mix"]["cpt"]["sources"]["members"]["share"] == pytest.approx(0.75, abs=0.1)
    assert card["bins"]["chats"]["n_documents"] == 1
    assert [file.file for file in whole.info.inputs] == ["chats.jsonl"]
    original, calls = corpus_documents._compile_part, []

    def failing(index: int, **arguments: Any) -> Iterator[pa.Table]:
        calls.append(index)
        if len(calls) == call + 1:
            raise RuntimeError("killed")
        yield from original(index, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(corpus_documents, "_compile_part", failing)
        with pytest.raises(RuntimeError, match="killed"):
            build(config, tmp_path / "out")
    continued = build(config, tmp_path / "out")
    assert continued.info == whole.info
    assert read_card(continued.folder)["mix"] == card["mix"]


def test_a_recipe_with_slates_packs_them(config: DatasetConfig, tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    shutil.copytree(SUITES / "economic_graph", suite)
    with (suite / "tasks" / "post_like.yaml").open("a") as file:
        file.write("question: [do they like it?]\n")
    config = replace(config, suite=str(suite), slates=True)
    data = build(config, tmp_path / "slates")
    alone = build(replace(config, slates=False), tmp_path / "alone")
    for name in ("bins", "evaluation"):
        packed, separate = plans(data)[name], plans(alone)[name]
        assert (packed.format_version, separate.format_version) == (SLATES_VERSION, FORMAT_VERSION)
        assert packed.n_tokens < separate.n_tokens

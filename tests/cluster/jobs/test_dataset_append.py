"""Days are appended: earlier files stay, each interaction is trained once, and the first data set is unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from brew_cluster.jobs import dataset, dataset_append
from brew_cluster.jobs.build_folder import build_folder
from brew_cluster.jobs.dataset import make_dataset, phase_names
from brew_cluster.jobs.dataset_append import append_days, append_phases
from brew_cluster.jobs.dataset_card import read_card
from brew_cluster.jobs.dataset_check import TRAINING_MEMBERS
from brew_cluster.jobs.dataset_config import DatasetConfig, load_dataset_config
from brew_data.data_folder import DataFolder
from brew_data.packed_bins.packed_documents import read_bin
from brew_data.packed_bins.plan import BinsPlan
from brew_data.pipelines.documents import compile_documents
from brew_data.pipelines.member_groups import read_members
from brew_platform.console.progress import Phases
from brew_platform.errors import UserError

MEMBERS = 60
SUITE: dict[str, Any] = {
    "name": "shop",
    "format_version": 3,
    "profile": {"fields": [], "phrases": []},
    "entities": {"product": {"fields": ["title"], "phrases": ["{{ title }}"]}},
    "surfaces": [
        {
            "name": "shop",
            "entity_type": "product",
            "question": ["product"],
            "actions": [{"name": "bought", "label": "bought"}, {"name": "viewed", "label": "viewed"}],
        }
    ],
}
TASK = {
    "name": "buy",
    "surface": "shop",
    "instruction": "Predict.",
    "positive": ["bought"],
    "history": {"surfaces": ["shop"]},
}
RECIPE: dict[str, Any] = {
    "source": "tables",
    "source_config": {
        "interactions": {
            "files": ["days.csv"],
            "columns": {"member_id": "user", "entity_id": "item", "action": "event", "timestamp": "time"},
            "constants": {"surface": "shop"},
        },
        "entities": {
            "files": ["items.csv"],
            "columns": {"entity_id": "item"},
            "constants": {"entity_type": "product"},
            "fields": {"title": "title"},
        },
    },
    "suite": "suite",
    "split": {"last_days": 1},
    "tokenizer": {"vocabulary_size": 300},
    "prompt": {"context_length": 96, "head_tokens": 16, "question_tokens": 24},
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Suite, recipe and items; everything runs in this process, without Ray."""

    @contextmanager
    def no_ray(**options: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(dataset, "any_ray", no_ray)
    monkeypatch.setattr(dataset_append, "any_ray", no_ray)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite" / "tasks").mkdir(parents=True)
    (tmp_path / "suite" / "suite.yaml").write_text(yaml.safe_dump(SUITE))
    (tmp_path / "suite" / "tasks" / "buy.yaml").write_text(yaml.safe_dump(TASK))
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"i{n},Item {n}\n" for n in range(9)))
    return tmp_path


def write_days(path: Path, first: int, last: int) -> None:
    """Write one interaction of each member and day."""
    rows = ["user,item,event,time"]
    for day in range(first, last + 1):
        for member in range(MEMBERS):
            time = datetime(2026, 1, day, tzinfo=UTC) + timedelta(minutes=member)
            event = "bought" if (day + member) % 3 == 0 else "viewed"
            rows.append(f"u{member},i{(day * member) % 9},{event},{time:%Y-%m-%dT%H:%M:%SZ}")
    path.write_text("\n".join(rows) + "\n")


def load(*overrides: str) -> DatasetConfig:
    return load_dataset_config("shop.yaml", list(overrides))


def build(folder: Path) -> DataFolder:
    write_days(folder / "days.csv", 1, 6)
    config = load()
    with build_folder(folder / "first") as partial:
        make_dataset(config, partial, Phases(phase_names(config)))
    return DataFolder.open(folder / "first")


def append(data: DataFolder, config: DatasetConfig, out: Path) -> DataFolder:
    with build_folder(out) as partial:
        append_days(config, data, partial, Phases(append_phases(data)))
    return DataFolder.open(out)


def loss_tokens(data: DataFolder, name: str) -> int:
    plan = BinsPlan.load(data.folder / name)
    documents = (document for n in range(plan.n_bins) for document in read_bin(data.folder / name, plan, n))
    return sum(int(document.roles.sum()) for document in documents)


def test_further_days_are_trained_once_and_earlier_files_stay(shop: Path) -> None:
    first = build(shop)
    digest = first.info.digest
    write_days(shop / "later.csv", 7, 8)
    config = load("source_config.interactions.files=[later.csv]")
    second = append(first, config, shop / "second")

    assert DataFolder.open(shop / "first").info.digest == digest
    assert second.info.appended_to == digest
    assert second.info.digest != digest
    assert [Path(file.file).name for file in second.info.inputs] == ["days.csv", "items.csv", "later.csv", "items.csv"]
    assert second.bundle().digest == first.bundle().digest
    card = read_card(second.folder)
    assert (card["rows"], card["members"], card["appended_to"]) == (8 * MEMBERS, MEMBERS, digest)
    ids = second.tables().interactions["interaction_id"].to_pylist()
    assert len(set(ids)) == len(ids)

    for name in ("bins", "evaluation"):
        before, after = (BinsPlan.load(data.folder / name) for data in (first, second))
        assert after.files[: len(before.files)] == before.files
        assert len(after.files) > len(before.files)
        for file in before.files:
            assert (second.folder / name / file.name).samefile(first.folder / name / file.name)
    assert first.info.split.train_until < second.info.split.train_until
    members = read_members(second.tables_folder, 0, until=second.info.split.train_until, members=TRAINING_MEMBERS)
    whole = compile_documents(members, second.bundle().compiler())
    assert loss_tokens(second, "bins") == sum(map(sum, whole["roles"].to_pylist()))

    write_days(shop / "last.csv", 9, 9)
    third = append(second, load("source_config.interactions.files=[last.csv]"), shop / "third")
    assert third.info.appended_to == second.info.digest
    assert not (third.folder / "days").exists()


def test_days_that_do_not_fit_are_refused(shop: Path) -> None:
    data = build(shop)
    write_days(shop / "later.csv", 7, 8)
    config = load("source_config.interactions.files=[later.csv]")
    other = replace(config, prompt=replace(config.prompt, question_tokens=25))
    with pytest.raises(UserError, match="the recipe has the prompt format .*Prompts cannot change when days are"):
        append(data, other, shop / "out")
    with pytest.raises(UserError, match=r"300 interactions of the further day.*are not later than the training rows"):
        append(data, load("source_config.interactions.files=[days.csv]"), shop / "out")
    far = replace(config, split=replace(config.split, last_days=6.0))
    with pytest.raises(UserError, match="so that nothing can be trained in addition. Append more days, or move"):
        append(data, far, shop / "out")
    task = shop / "suite" / "tasks" / "buy.yaml"
    task.write_text(yaml.safe_dump(TASK | {"instruction": "Guess."}))
    with pytest.raises(UserError, match="the recipe has the task suite shop, but the data set has shop, with other"):
        append(data, config, shop / "out")
    assert not (shop / "out").exists()

"""Builds and member contexts write no member who opted out, no identifier, and no id that has a pseudonym."""

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from brew_cluster.jobs import dataset, dataset_append
from brew_cluster.jobs.build_folder import build_folder
from brew_cluster.jobs.context import ALL, build_context
from brew_cluster.jobs.dataset import make_dataset, phase_names
from brew_cluster.jobs.dataset_append import append_days, append_phases
from brew_cluster.jobs.dataset_card import read_card
from brew_cluster.jobs.dataset_check import check_dataset, print_check
from brew_cluster.jobs.dataset_config import load_dataset_config
from brew_cluster.jobs.dataset_tables import prepare
from brew_cluster.jobs.tables_state import TABLES_STATE
from brew_data.corpora.config import CorpusConfig, CorpusSourceConfig
from brew_data.data_folder import DataFolder
from brew_data.privacy.pseudonyms import PseudonymConfig
from brew_platform.config import config_digest
from brew_platform.console.plain_console import PlainConsole
from brew_platform.console.progress import Phases
from brew_platform.errors import UserError
from brew_serve.context.location import check_context, open_context

KEY = "a key of thirty-two random bytes"
MEMBERS, OPTED_OUT = 120, [3, 50, 77, 119]
SUITE: dict[str, Any] = {
    "name": "shop",
    "format_version": 3,
    "profile": {"fields": ["motto"], "phrases": ["{{ motto }}"]},
    "entities": {
        "product": {"fields": ["title", "author"], "phrases": ["{{ title }}", "by {{ author }}"]},
        "person": {"fields": ["title"], "phrases": ["{{ title }}"]},
    },
    "surfaces": [
        {
            "name": name,
            "entity_type": kind,
            "question": [kind],
            "actions": [{"name": "took", "label": "took"}, {"name": "left", "label": "left"}],
        }
        for name, kind in (("shop", "product"), ("people", "person"))
    ],
}
RECIPE: dict[str, Any] = {
    "source": "tables",
    "source_config": {
        "interactions": {
            "files": ["interactions.csv"],
            "columns": {
                "member_id": "user",
                "entity_id": "item",
                "surface": "place",
                "action": "event",
                "timestamp": "at",
            },
            "time_format": "seconds",
        },
        "entities": {
            "files": ["items.csv"],
            "columns": {"entity_id": "item", "entity_type": "kind", "author_id": "user"},
            "fields": {"title": "title", "author": "name"},
        },
        "members": {
            "files": ["members.csv"],
            "columns": {"member_id": "user", "opted_out": "out"},
            "profile": {"motto": "motto"},
        },
        "connections": {
            "files": ["connections.csv"],
            "columns": {"member_id": "user", "other_id": "other"},
            "constants": {"kind": "connection", "timestamp": "1700000000"},
            "time_format": "seconds",
        },
    },
    "suite": "suite",
    "split": {"train_share": 0.8},
    "tokenizer": {"vocabulary_size": 600},
    "prompt": {"context_length": 128, "head_tokens": 32, "question_tokens": 32},
    "pairs": 20,
    "quarantine": {"max_share": 0.2},
}


def user(number: int) -> str:
    return f"uid{number:03d}q"


def secret(number: int) -> list[str]:
    """What only the data of a member contain."""
    return [user(number), f"motto{number:03d}q", f"name{number:03d}q", f"headline{number:03d}q"]


def write_csv(path: str, header: str, rows: list[str]) -> None:
    Path(path).write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in which members who opted out are everywhere; everything runs in this process, without Ray."""

    @contextmanager
    def no_ray(**options: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(dataset, "any_ray", no_ray)
    monkeypatch.setattr(dataset_append, "any_ray", no_ray)
    monkeypatch.setenv("PSEUDONYM_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    tasks = tmp_path / "suite" / "tasks"
    tasks.mkdir(parents=True)
    (tmp_path / "suite" / "suite.yaml").write_text(yaml.safe_dump(SUITE))
    for name in ("shop", "people"):
        task = {
            "name": name, "surface": name, "instruction": "Predict.", "positive": ["took"],
            "history": {"surfaces": [name]},
        }  # fmt: skip
        (tasks / f"{name}.yaml").write_text(yaml.safe_dump(task))
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(RECIPE))
    generator = random.Random(0)
    numbers = range(MEMBERS)
    mottos = [f"motto{n:03d}q mail m{n:03d}@example.com" for n in numbers]
    write_csv("members.csv", "user,motto,out", [f"{user(n)},{mottos[n]},{n in OPTED_OUT}" for n in numbers])
    posts = [f"post{n},product,{user(n)},Post {n} by Name{n:03d}q Lee,Name{n:03d}q Lee" for n in numbers]
    cards = [f"card{n},person,{user(n)},headline{n:03d}q," for n in numbers]
    write_csv("items.csv", "item,kind,user,title,name", posts + cards)
    write_csv("connections.csv", "user,other", [f"{user(n)},{user((n + 1) % MEMBERS)}" for n in numbers])
    rows = [
        f"{user(n)},{item}{generator.randrange(MEMBERS)},{place},{generator.choice(['took', 'left'])},{at}"
        for at in range(1_700_000_000, 1_700_000_020)
        for n in numbers
        for item, place in (("post", "shop"), ("card", "people"))
    ]
    rows += [f"{user(n)},missing,shop,took,1700000000" for n in (OPTED_OUT[0], 5)]  # for the quarantine
    write_csv("interactions.csv", "user,item,place,event,at", rows)
    return tmp_path


def build(out: Path, *overrides: str) -> DataFolder:
    config = load_dataset_config("shop.yaml", list(overrides))
    with build_folder(out, settings=config_digest(config)) as partial:
        make_dataset(config, partial, Phases(phase_names(config)))
    return DataFolder.open(out)


def written_texts(data: DataFolder) -> Iterator[tuple[str, str]]:
    """Yield the text of every file: rows of tables, and bins as text."""
    tokenizer = data.bundle().tokenizer
    for path in sorted(data.folder.rglob("*")):
        if path.suffix == ".parquet" and path.is_file():
            rows = pq.ParquetFile(path).read()
            yield str(path), str(rows.to_pylist())
            for column in rows.column_names:
                if column == "input_ids":
                    yield str(path), " ".join(map(tokenizer.decode, rows[column].to_pylist()))
        elif path.suffix == ".arrow":
            with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as file:
                yield str(path), str(file.read_all().to_pylist())
        elif path.is_file():
            yield str(path), path.read_bytes().decode("utf-8", errors="replace")


def find(data: DataFolder, words: list[str]) -> list[tuple[str, str]]:
    lowered = [word.lower() for word in words]
    return [(path, word) for path, text in written_texts(data) for word in lowered if word in text.lower()]


def test_no_file_of_a_data_set_has_a_member_who_opted_out_or_an_identifier(shop: Path) -> None:
    data = build(shop / "data")
    gone = [word for number in OPTED_OUT for word in secret(number)]
    assert find(data, gone) == []
    assert find(data, ["@example"]) == []
    kept = {word for _, word in find(data, secret(5))}
    assert kept == set(secret(5))  # the search finds what is there
    card = read_card(data.folder)
    assert card["members_opted_out"] == len(OPTED_OUT)
    assert card["removed"]["members.motto"] == {"e-mail addresses": MEMBERS - len(OPTED_OUT)}
    assert card["removed"]["entities"] == {
        "about members who opted out": len(OPTED_OUT),
        "authors: members who opted out": len(OPTED_OUT),
    }
    assert card["removed"]["connections"] == {"of members who opted out": 2 * len(OPTED_OUT)}
    assert "| members | members who opted out | 4 |" in (data.folder / "card.md").read_text()
    [row] = (data.folder / "quarantine" / "interactions.jsonl").read_text().splitlines()
    assert json.loads(row)["values"]["member_id"] == user(5)
    assert card["quarantined"]["interactions"] == {"entity_id is not in the entities": 2}


def test_no_file_of_a_data_set_with_pseudonyms_has_the_id_of_a_member_or_the_key(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = PseudonymConfig(env="PSEUDONYM_KEY")
    overrides = ["privacy.pseudonyms={env: PSEUDONYM_KEY}"]
    data = build(shop / "data", *overrides)
    assert find(data, [KEY, "uid"]) == []
    assert data.info.key_id == config.open().key_id
    assert config.open().of(user(5)) in data.tables().members["member_id"].to_pylist()
    check = check_dataset(load_dataset_config("shop.yaml", overrides))
    print_check(check, PlainConsole())
    shown = capsys.readouterr().out
    assert "removed: members: 4 rows: members who opted out" in " ".join(shown.split())
    assert "uid" not in shown

    build_context(data, shop / "context.sqlite", until=ALL)
    check_context(str(shop / "context.sqlite"), config.open())
    context = open_context(str(shop / "context.sqlite"), config.open())
    profile, history = context.member(user(5))
    assert profile == {"motto": "motto005q mail"}
    assert len(history) > 30
    context.close()
    assert b"uid" not in (shop / "context.sqlite").read_bytes()
    build_context(data, shop / "context.sqlite", until=ALL, by_id=False)
    check_context(str(shop / "context.sqlite"))


def append_line(path: str, line: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{line}\n")


CHANGES: dict[str, Callable[[], object]] = {
    "items.csv": lambda: append_line("items.csv", "post999,product,,New,"),
    "chats.jsonl": lambda: append_line("chats.jsonl", ""),
    "the list of privacy.opted_out_file": lambda: append_line("out.txt", user(6)),
    "the key of privacy.pseudonyms": lambda: os.environ.update(PSEUDONYM_KEY=f"another {KEY}"),
    "the suite": lambda: Path("suite/suite.yaml").write_text(yaml.safe_dump({**SUITE, "name": "renamed"})),
}


@pytest.mark.parametrize("name", CHANGES)
def test_tables_are_kept_only_while_their_inputs_are_the_same(
    name: str, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chats = CorpusConfig(sources={"all": CorpusSourceConfig(kind="conversations", path="chats.jsonl")})
    append_line("chats.jsonl", json.dumps({"messages": []}))
    append_line("out.txt", user(5))
    overrides = ["privacy.pseudonyms={env: PSEUDONYM_KEY}", "privacy.opted_out_file=out.txt"]
    config = replace(load_dataset_config("shop.yaml", overrides), corpora={"chats": chats})
    folder = shop / "partial"
    (folder / "bins").mkdir(parents=True)

    def is_continued() -> bool:
        phases = Phases(phase_names(config))
        return prepare(config, folder, phases, held_out=True, continues=True).is_continued

    assert not is_continued()
    assert is_continued()
    assert user(5) not in (folder / TABLES_STATE).read_text()
    assert "starts from the beginning" not in capsys.readouterr().out
    CHANGES[name]()
    assert not is_continued()
    assert not (folder / "bins").exists()
    output = " ".join(capsys.readouterr().out.split())
    assert "the build starts from the beginning, because these changed since it was interrupted: " in output
    assert name in output.partition("interrupted: ")[2].partition("rows in")[0]
    assert is_continued()


def test_a_member_who_opts_out_while_a_build_is_interrupted_is_in_no_file(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("killed")

    append_line("out.txt", user(6))
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "build_pairs", fail)
        with pytest.raises(RuntimeError, match="killed"):
            build(shop / "data", "privacy.opted_out_file=out.txt")
    append_line("out.txt", user(5))
    data = build(shop / "data", "privacy.opted_out_file=out.txt")
    assert find(data, secret(5)) == []


def test_days_are_appended_with_the_same_key_and_members_only(shop: Path) -> None:
    data = build(shop / "first", "privacy.pseudonyms={env: PSEUDONYM_KEY}")
    rows = [f"{user(n)},post{n},shop,took,{1_800_000_000 + at}" for at in range(10) for n in range(MEMBERS) if n != 3]
    write_csv("later.csv", "user,item,place,event,at", rows)

    def append(*overrides: str) -> None:
        config = load_dataset_config("shop.yaml", ["source_config.interactions.files=[later.csv]", *overrides])
        with build_folder(shop / "second") as partial:
            append_days(config, data, partial, Phases(append_phases(data)))

    with pytest.raises(UserError, match=r"privacy\.pseudonyms has the key null, but the data set was built with"):
        append()
    (shop / "out.txt").write_text(f"{user(6)}\n{user(OPTED_OUT[0])}\n")
    with pytest.raises(UserError, match="1 members of the data set have opted out since it was built"):
        append("privacy.pseudonyms={env: PSEUDONYM_KEY}", "privacy.opted_out_file=out.txt")
    append("privacy.pseudonyms={env: PSEUDONYM_KEY}")
    assert find(DataFolder.open(shop / "second"), ["uid"]) == []

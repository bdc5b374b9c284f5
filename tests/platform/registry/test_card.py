"""The card of a version has what the registry recorded, and shows text from outside literally."""

from typing import Any

from brew_platform.registry.blobs import File
from brew_platform.registry.card import version_card
from brew_platform.registry.events import Event
from brew_platform.registry.gates import Gate, GateOutcome
from brew_platform.registry.version import Version


def version(**fields: Any) -> Version:
    values: dict[str, Any] = {
        "number": 7,
        "files": (File("model.safetensors", 1_234_567, "a" * 64),),
        "signature": {"suite": "movielens", "tasks": ["like", "rate"], "prompt": {"context_length": 512}},
        "lineage": {
            "parent": {"folder": "cpt/export", "digest": "b" * 64, "lineage": {"parent": {"folder": "base/gemma"}}},
            "plan_hashes": {"sft": "c" * 64},
            "commit": "d" * 40,
            "job": None,
            "benchmark": {"rows_digest": "e" * 64, "sample": {"rows": 2_000}},
            "datasets": {"sft": {"name": "brew360", "version": 3}},
        },
        "metrics": {"like": {"auc": 0.7512345678, "rows": 10}, "rate": {"logloss": 0.5}, "total": 3},
        "gates": (Gate(figure="like.auc", at_least=0.7, min_change=-0.01),),
        "author": "ana",
        "time": "2026-01-02T03:04:05+00:00",
        "write_id": "w",
    }
    return Version(**{**values, **fields})


def event(number: int, kind: str, **fields: Any) -> Event:
    base = {"version": 7, "alias": None, "author": "ben", "time": "2026-02-03T00:00:00+00:00"}
    return Event(number=number, kind=kind, **{**base, **fields})


def test_a_card_has_everything_that_the_registry_recorded() -> None:
    events = [
        event(1, "approve", author="eve", note="privacy"),
        event(2, "blocked", alias="production", gates=(GateOutcome("like.auc", 0.6, 0.7, False),)),
        event(3, "promote", alias="production", force_reason="first"),
        event(4, "canary", version=8, alias="canary", share=0.1),
        event(5, "policy", version=0),
    ]
    card = version_card(version(), events, model="brew360")
    assert card.startswith("# brew360, version 7\n\nAliases: production.\n")
    for line in (
        "| published | 2026-01-02T03:04:05+00:00 |",
        "| tasks | like, rate |",
        "| prompt.context\\_length | 512 |",
        "| sft | " + "c" * 64 + " |",
        "- started from cpt/export, digest " + "b" * 64,
        "  - started from base/gemma, digest unknown",
        "| commit | " + "d" * 40 + " |",
        "| datasets.sft.version | 3 |",
        "| sample.rows | 2000 |",
        "| task | auc | rows | logloss |",
        "| like | 0.751235 | 10 |  |",
        "| total | 3 |",
        "| like.auc | at\\_least | 0.7 | 0.751235 |",
        "| like.auc | min\\_change | -0.01 | 0.751235 |",
        "- eve",
        "| 2026-02-03T00:00:00+00:00 | blocked | production | ben | gate like.auc failed (value 0.6, threshold 0.7) |",
        "| 2026-02-03T00:00:00+00:00 | promote | production | ben | forced: first |",
        "| model.safetensors | 1,234,567 | " + "a" * 64 + " |",
    ):
        assert f"{line}\n" in card, line
    assert "canary" not in card
    assert "policy" not in card


def test_a_version_without_figures_says_so() -> None:
    card = version_card(version(lineage={}, metrics={}, gates=()), [], model="brew360")
    assert card.count("Not recorded.") == 7
    assert "trained from scratch" not in card
    scratch = version(lineage={"parent": None, "copied_from": {"model": "other", "version": 2}})
    card = version_card(scratch, [event(1, "retire"), event(2, "collect")], model="brew360")
    assert "- trained from scratch\n- copied from version 2 of other\n" in card
    assert "The version is retired: no alias can be moved to it. Its files were removed at 2026-02-03" in card


def test_text_from_outside_cannot_change_the_card() -> None:
    note = "# title\n| a | <b>x</b> `c` [d](e) *f* \x1b[31m"
    card = version_card(version(author=note), [event(1, "tag", note=note)], model="brew360")
    assert r"\# title \| a \| \<b\>x\</b\> \`c\` \[d\](e) \*f\* \[31m" in card
    assert all(line.count(" | ") <= 5 for line in card.splitlines() if "title" in line)

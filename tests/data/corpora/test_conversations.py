"""Conversations: the files and their faults, and the documents, whose answers alone are trained."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.corpora.conversations import (
    Conversation,
    conversation_document,
    conversation_files,
    read_conversations,
)
from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.tokenizer import CONTROL_TOKENS
from brew_data.sources.quarantine import Quarantine
from brew_platform.errors import DataError, UserError


def messages(*contents: str, system: str = "") -> list[dict[str, str]]:
    roles = ("user", "assistant")
    found = [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]
    return [{"role": "system", "content": system}, *found] if system else found


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


def read(path: Path) -> tuple[list[Conversation], dict[str, int]]:
    quarantine = Quarantine()
    found = list(read_conversations(path, quarantine, table="chats"))
    return found, quarantine.counts().get("chats", {})


def test_both_formats_give_the_same_conversations(tmp_path: Path) -> None:
    rows = [
        {"messages": messages("hi", "hello", "and?", "well", system="Be short."), "prompt_id": "7"},
        {"messages": messages("hi", "hello", "unanswered")},
        {"messages": [{"role": "member", "content": "A nurse\nOslo\n"}, *messages("hi", "hello")]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    expected = [
        Conversation(instruction="Be short.", turns=(("hi", "hello"), ("and?", "well")), line=1),
        Conversation(instruction="", turns=(("hi", "hello"),), line=2),
        Conversation(instruction="", profile="A nurse\nOslo\n", turns=(("hi", "hello"),), line=3),
    ]
    assert read(jsonl(tmp_path / "a.jsonl", rows)) == read(tmp_path / "b.parquet") == (expected, {})
    assert conversation_files(tmp_path) == [tmp_path / "a.jsonl", tmp_path / "b.parquet"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "messages is not a list of messages"),
        ({"text": "hi"}, "messages is not a list of messages"),
        ({"messages": []}, "messages is not a list of messages"),
        ({"messages": ["hi"]}, "a message is not an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "a message has an unknown role"),
        ({"messages": messages("hi", " ")}, "a message has no text"),
        ({"messages": [{"role": "user", "content": 3}]}, "a message has no text"),
        ({"messages": messages("hi", "hello")[::-1]}, "the roles do not alternate between user and assistant"),
        ({"messages": messages("a", "b") + messages("c", system="d")}, "the roles do not alternate"),
        ({"messages": [*messages("a", "b"), {"role": "member", "content": "c"}]}, "the roles do not alternate"),
        ({"messages": [{"role": "member", "content": "c"}] * 2 + messages("a", "b")}, "the roles do not alternate"),
        ({"messages": messages("hi")}, "there is no answer"),
    ],
)
def test_a_row_that_is_no_conversation_goes_to_the_quarantine(row: Any, reason: str, tmp_path: Path) -> None:
    found, reasons = read(jsonl(tmp_path / "a.jsonl", [row, {"messages": messages("hi", "hello")}]))
    assert [conversation.line for conversation in found] == [2]
    [(written, count)] = reasons.items()
    assert written.startswith(reason)
    assert count == 1


def test_lines_that_are_not_text_or_json_go_to_the_quarantine(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"messages": \n\xff\n{"messages": [{"role": "user", "content": "\\ud83d"}]}\n')
    found, reasons = read(tmp_path / "a.jsonl")
    assert not found
    assert reasons == {"the line is not valid JSON": 2, "the line is not UTF-8": 1}


def test_quarantined_rows_are_written_with_their_line(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine")
    path = jsonl(tmp_path / "a.jsonl", [{"messages": messages("mail me: ada@example.com")}])
    assert not list(read_conversations(path, quarantine, table="chats"))
    row = json.loads((tmp_path / "quarantine" / "chats.jsonl").read_text())
    assert (row["file"], row["line"], row["reason"]) == ("a.jsonl", 1, "there is no answer")
    assert "ada@example.com" not in json.dumps(row)


def test_identifiers_are_removed_and_other_lines_keep_their_spaces(tmp_path: Path) -> None:
    text = "def f():\n    return 1\nwrite to ada@example.com now"
    [conversation], _ = read(jsonl(tmp_path / "a.jsonl", [{"messages": messages("hi", text)}]))
    assert conversation.turns[0][1] == "def f():\n    return 1\nwrite to now"


@pytest.mark.parametrize("name", ["a.csv", "missing.jsonl", "empty"])
def test_a_path_without_conversations_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither a \.jsonl or \.parquet file"):
        conversation_files(tmp_path / name)


def test_parquet_without_messages_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["hi"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"lacks the column messages \(it has text\)"):
        read(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(tmp_path / "b.parquet")


def test_answers_and_the_token_after_each_are_trained(compiler: PromptCompiler) -> None:
    conversation = Conversation(instruction="Be short.", turns=(("hi", "hello"), ("and?", "well")), line=1)
    document = conversation_document(conversation, compiler)
    assert document is not None
    decode = compiler.tokenizer.decode
    assert decode(document.ids) == (
        "<|system|>Be short.<|member|><|user|>hi<|assistant|>hello<|user|>and?<|assistant|>well<|end|>"
    )
    trained = [id_ for id_, role in zip(document.ids, document.roles, strict=True) if role]
    assert decode(trained) == "hello<|user|>well<|end|>"
    of_member = conversation_document(replace(conversation, profile="A nurse"), compiler)
    assert of_member is not None
    assert decode(of_member.ids).startswith("<|system|>Be short.<|member|>A nurse<|user|>hi")


def test_a_long_conversation_is_cut_after_a_whole_turn(compiler: PromptCompiler) -> None:
    conversation = Conversation(instruction="", turns=(("a", "b"), ("c", "d"), ("e", "f")), line=1)
    turns = conversation.turns * 100
    document = conversation_document(replace(conversation, turns=turns), compiler)
    assert document is not None
    shown = len(turns) - document.turns_dropped
    assert 0 < shown < len(turns)
    assert len(document.ids) == 2 + 4 * shown + 1  # each letter is a token
    assert len(document.ids) <= compiler.format.context_length < len(document.ids) + 4
    too_long = replace(conversation, turns=(("a" * 3_000, "b"),))
    assert conversation_document(too_long, compiler) is None


@given(st.text(max_size=20), st.sampled_from(CONTROL_TOKENS), st.text(max_size=10))
def test_no_text_can_forge_a_control_token(compiler: PromptCompiler, before: str, token: str, after: str) -> None:
    evil = before + token + after
    document = conversation_document(Conversation(instruction=evil, turns=((evil, evil),), line=1), compiler)
    assert document is not None
    controls = [id_ for id_ in document.ids if id_ in compiler.tokenizer.control_ids]
    t = compiler.tokenizer
    assert controls == [t.system, t.member, t.user, t.assistant, t.end]

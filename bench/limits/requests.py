"""Requests that cost a service far more than they cost their sender, up to the size of a body that it accepts.

Each maker returns the path and the body. Names of task, surface and fields are those of the suite `economic_graph`,
unless a `Names` says otherwise.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from bench.words import draw_words, vocabulary

__all__ = ["HOSTILE", "Names", "normal_ranking"]

BODY = 7_900_000  # bytes; the service takes 8,000,000
TIME = "2026-01-31T12:00:00Z"


@dataclass(frozen=True, kw_only=True)
class Names:
    """Names of a suite that the requests use."""

    task: str = "job_apply"
    entity_type: str = "job"
    surface: str = "jobs"
    action: str = "apply"
    fields: list[str] = field(default_factory=lambda: ["title", "company", "industry", "location", "skills"])


_words = cache(vocabulary)


def text(characters: int, seed: int = 0) -> str:
    """Return random words."""
    random = np.random.default_rng(seed)
    words = " ".join(draw_words(_words(), random, characters // 4))
    return (words * (1 + characters // len(words)))[:characters].strip().ljust(characters, "x")


def score_text(names: Names) -> tuple[str, Any]:
    """A query of 200,000 characters with 200 items: 201 KB, and 40 MB of prompts."""
    items = [f"item {n}" for n in range(200)]
    return "/v1/score", {"query": text(200_000), "items": items, "label_token_ids": [7, 8]}


def score_unicode(names: Names) -> tuple[str, Any]:
    """The same with characters of four bytes."""
    items = [f"item {n}" for n in range(200)]
    return "/v1/score", {"query": "\U0001f600" * 200_000, "items": items, "label_token_ids": [7, 8]}


def score_shorter_text(names: Names) -> tuple[str, Any]:
    """A query of 18,000 characters with 200 items: a lower bound of its tokens does not exclude it."""
    items = [f"item {n}" for n in range(200)]
    return "/v1/score", {"query": text(18_000), "items": items, "label_token_ids": [7, 8]}


def generative_text(names: Names) -> tuple[str, Any]:
    """Items of 7,000 characters, 1,000 of them, in vLLM's protocol."""
    return "/generative_scoring", {
        "query": "",
        "items": [text(7_000, n) for n in range(1_000)],
        "label_token_ids": [7, 8],
    }


def score_ids(names: Names) -> tuple[str, Any]:
    """A query of 99,000 token ids with 1,000 items."""
    items = [[7]] * 1_000
    return "/v1/score", {"query": [7 + n % 90 for n in range(99_000)], "items": items, "label_token_ids": [7, 8]}


def score_labels(names: Names) -> tuple[str, Any]:
    """1,000 items with 1,000 labels: 7 KB, and a million probabilities."""
    labels = [7 + n % 200 for n in range(1_000)]
    return "/v1/score", {"query": [7], "items": [[8]] * 1_000, "label_token_ids": labels, "apply_softmax": True}


def completion_text(names: Names) -> tuple[str, Any]:
    """39 prompts of 200,000 characters."""
    return "/v1/completions", {"model": "brew360", "prompt": [text(200_000, n) for n in range(39)], "max_tokens": 1}


def chat_text(names: Names) -> tuple[str, Any]:
    """A chat of 39 messages of 200,000 characters."""
    messages = [{"role": "user", "content": text(200_000, n)} for n in range(39)]
    return "/v1/chat/completions", {"model": "brew360", "messages": messages, "max_tokens": 1}


def _past(names: Names, fields: dict[str, str]) -> dict[str, Any]:
    return {
        "entity_type": names.entity_type,
        "fields": fields,
        "surface": names.surface,
        "action": names.action,
        "timestamp": TIME,
    }


def _ranking(names: Names, **parts: Any) -> tuple[str, Any]:
    member = {"profile": parts.get("profile", {}), "history": parts.get("history", [])}
    candidates = parts.get("candidates", [{"id": "a", "fields": {names.fields[0]: "nurse"}}])
    return "/v1/rank", {"task": names.task, "member": member, "candidates": candidates}


def rank_history(names: Names) -> tuple[str, Any]:
    """5,000 past interactions with a field of 1,400 characters."""
    return _ranking(names, history=[_past(names, {names.fields[0]: text(1_400, n)}) for n in range(5_000)])


def rank_candidates(names: Names) -> tuple[str, Any]:
    """Candidates whose fields have 2,000 characters each, as many as a body holds."""
    each = len(names.fields) * 2_000 + 200
    return _ranking(
        names,
        candidates=[
            {"id": str(n), "fields": {name: text(2_000, 10 * n + i) for i, name in enumerate(names.fields)}}
            for n in range(min(1_000, BODY // each))
        ],
    )


def rank_profile(names: Names) -> tuple[str, Any]:
    """A profile of 100 fields of 2,000 characters, which the prompt of each of 1,000 candidates could show."""
    profile = {**{f"field{n}": "a " * 1_000 for n in range(95)}, **{name: text(2_000) for name in names.fields}}
    candidates = [{"id": str(n), "fields": {names.fields[0]: f"nurse {n}"}} for n in range(1_000)]
    return _ranking(names, profile=profile, candidates=candidates)


def json_values(names: Names) -> tuple[str, Any]:
    """A list of almost 4 million numbers."""
    return "/v1/score", b'{"query":[' + b"0," * (BODY // 2) + b'0],"items":["a"],"label_token_ids":[7]}'


def json_wrong_values(names: Names) -> tuple[str, Any]:
    """A list of 2 million texts where token ids belong: each of them is an error."""
    return "/v1/score", b'{"query":[7],"items":[["a"' + b',"a"' * (BODY // 4) + b']],"label_token_ids":[7]}'


def json_lists(names: Names) -> tuple[str, Any]:
    """A list of 2.6 million empty lists."""
    return "/v1/score", b'{"query":[' + b"[]," * (BODY // 3) + b'[]],"items":["a"],"label_token_ids":[7]}'


def json_keys(names: Names) -> tuple[str, Any]:
    """An object with 600,000 unknown keys: each of them is an error."""
    return "/v1/rank", b"{" + b",".join(b'"k%d":0' % n for n in range(600_000)) + b"}"


HOSTILE: dict[str, Callable[[Names], tuple[str, Any]]] = {
    maker.__name__: maker
    for maker in (
        score_text,
        score_unicode,
        score_shorter_text,
        generative_text,
        score_ids,
        score_labels,
        completion_text,
        chat_text,
        rank_history,
        rank_candidates,
        rank_profile,
        json_values,
        json_wrong_values,
        json_lists,
        json_keys,
    )
}


def normal_ranking(names: Names, seed: int = 0) -> tuple[str, Any]:
    """50 candidates and 40 past interactions with fields of some words: 20 KB."""

    def fields(n: int) -> dict[str, str]:
        return {name: text(14, 1_000 * seed + 100 * i + n) for i, name in enumerate(names.fields)}

    return _ranking(
        names,
        profile=fields(99),
        history=[_past(names, fields(n)) for n in range(40)],
        candidates=[{"id": str(n), "fields": fields(50 + n)} for n in range(50)],
    )


def body_of(content: Any) -> bytes:
    """Return the bytes of a body."""
    return content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode()

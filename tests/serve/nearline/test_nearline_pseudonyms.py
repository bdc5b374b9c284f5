"""The nearline service takes the ids of members, and stores pseudonyms and text without identifiers."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from brew_data.privacy.config import PrivacyConfig
from brew_data.privacy.pseudonyms import PseudonymConfig, Pseudonyms
from brew_data.privacy.table_privacy import make_private
from brew_data.schema import Tables
from brew_serve.context.base import MemberContext, UnknownId
from brew_serve.nearline.dispatcher import Dispatcher, Message
from brew_serve.nearline.message_handler import NearlineWorker
from brew_serve.nearline.outbox import Outbox
from brew_serve.nearline.service import NearlineService
from brew_serve.nearline.store import SqliteNearlineStore
from brew_serve.ranking.scoring import Scorer
from brew_serve.schemas.nearline import EventBatch, NearlineRankRequest
from brew_serve.version import LoadedVersion

KEY = "0123456789abcdef"


class Queue:
    """Keeps the messages."""

    def __init__(self) -> None:
        self.held: list[Message] = []

    def send(self, message: Message) -> None:
        self.held.append(message)

    def close(self) -> None: ...


def test_members_are_stored_by_pseudonym(
    tmp_path: Path, tables: Tables, version: LoadedVersion, table_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSEUDONYM_KEY", KEY)
    config = PseudonymConfig(env="PSEUDONYM_KEY")
    pseudonyms: Pseudonyms = config.open()
    private, _ = make_private(tables, PrivacyConfig(pseudonyms=config))
    MemberContext.build(private, tmp_path / "context.sqlite", key_id=pseudonyms.key_id)
    context = MemberContext(tmp_path / "context.sqlite", writable=True)
    outbox, store, queue = Outbox(tmp_path / "outbox.sqlite"), SqliteNearlineStore(tmp_path / "store.sqlite"), Queue()
    dispatcher = Dispatcher(outbox, queue, store)
    service = NearlineService(outbox, store, dispatcher, lambda: version.suite, pseudonyms=pseudonyms)
    event = {
        "event_id": "web-1", "member_id": "ada", "entity_id": "e2", "surface": "jobs", "action": "skip",
        "timestamp": datetime(2026, 1, 31, tzinfo=UTC).isoformat(),
        "entity": {"entity_type": "job", "fields": {"title": "nurse, mail ana@example.com"}},
    }  # fmt: skip
    rank = {
        "task": "job_apply", "member_id": "ada", "instruction": "Call me at 202-555-0142, I like data.",
        "candidates": ["e0", {"id": "x", "fields": {"title": "pilot at 12 Oak Street"}}],
    }  # fmt: skip
    service.events(EventBatch.model_validate({"events": [event]}, strict=False))
    accepted = service.rank(NearlineRankRequest.model_validate(rank, strict=False))
    assert "member_id=ada" in accepted.result
    with pytest.raises(UnknownId, match="'ada' is being computed"):
        service.ranking("job_apply", "ada")
    dispatcher.step()
    worker = NearlineWorker(3, Scorer(table_engine, version.compiler), context, store, asyncio.run)
    for message in queue.held:
        assert message.member_id == pseudonyms.of("ada")
        worker.handle(message.member_id, message.jobs)
    ranking = service.ranking("job_apply", "ada")
    assert (ranking.member_id, ranking.events.newest) == ("ada", ["web-1"])
    with pytest.raises(UnknownId, match="no ranking of job_apply for member 'bob'"):
        service.ranking("job_apply", "bob")
    service.close()
    context.close()
    for path in tmp_path.iterdir():
        written = path.read_bytes()
        assert not [word for word in (b"ada", b"ana@", b"555-0142", b"Oak", KEY.encode()) if word in written], path

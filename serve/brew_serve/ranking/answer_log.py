"""The log of answers: the rankings of a replica as Parquet files, which `brew_eval.online` joins with later events.

A thread writes the files, so a request never waits for the store. Ids of members and entities are hashed with a key,
and no text is logged. A file is created whole, under a name that is never used again.
"""

import json
import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from brew_data.privacy.pseudonyms import Pseudonyms
from brew_data.prompts.tasks import TaskSpec
from brew_platform.errors import StorageError
from brew_platform.storage.base import ObjectStore, open_store
from brew_serve.metrics import Meters
from brew_serve.ranking.answer_log_config import AnswerLogConfig
from brew_serve.ranking.scoring import Ranking
from brew_serve.schemas.rank import RankRequest

__all__ = ["LOGGED_ANSWERS", "AnswerLog", "Origin"]

LOGGED_ANSWERS = pa.schema(
    {
        "request_id": pa.string(),  # x-request-id of the request; its copy for a shadow has the same
        "time": pa.timestamp("us", tz="UTC"),  # when the request arrived; the same for the copy
        "version": pa.int64(),  # that answered
        "role": pa.string(),  # of the version for this request: production, canary or shadow
        "task": pa.string(),
        "surface": pa.string(),
        "is_trained": pa.bool_(),
        "member": pa.string(),  # hash of member_id, or else of routing_key, the profile, or the request
        "history": pa.int32(),  # past interactions of the member at that moment
        "locale": pa.string(),  # of the profile; null if it has none
        "entity_id": pa.string(),  # hash of the candidate's id
        "score": pa.float64(),  # raw, also where the response is calibrated; null: the deadline left it unscored
        "probabilities": pa.list_(pa.float64()),  # raw, by outcome in the task's order
        "returned": pa.bool_(),  # whether the response contains the candidate; of a shadow, whether it would
    }
).with_metadata({"brew360.answers": "1"})

_LOG = logging.getLogger("brew_serve")
_RETRY_SECONDS = 5.0  # after a store has failed
_CLOSE_SECONDS = 10.0  # for the last file of a replica that stops


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a ranking request comes from.

    Args:
        request_id: Its `x-request-id`.
        role: Of the version for this request: production, canary or shadow.
        received: Seconds since 1970 when it arrived; of a copy for a shadow, when the original arrived.
    """

    request_id: str
    role: str
    received: float


@dataclass(frozen=True, kw_only=True)
class _Answer:
    origin: Origin
    request: RankRequest
    task: TaskSpec
    ranking: Ranking
    history: int
    locale: str | None

    @property
    def rows(self) -> int:
        return len(self.ranking.candidates) + len(self.ranking.unscored)


class AnswerLog:
    """Collects the answers of one replica and writes them in a thread. Its methods can be called in any thread.

    Args:
        config: Settings.
        version: Number of the version that answers.
        meters: Count the rows.
        open: Opens the store of a URL. Called in the thread, so that a store that is down stops no replica.

    Raises:
        UserError: The key cannot be read.
    """

    def __init__(
        self,
        config: AnswerLogConfig,
        *,
        version: int,
        meters: Meters,
        open: Callable[[str], ObjectStore] = open_store,
    ) -> None:
        self._config, self._version, self._meters, self._open = config, version, meters, open
        self._pseudonyms = config.key.open()
        self._condition = threading.Condition()
        self._pending: list[_Answer] = []
        self._rows = 0  # that are not written yet
        self._closing = threading.Event()
        for outcome in ("written", "dropped"):
            meters.answer_rows.labels(outcome)  # 0 from the start, so that the first one is an increase
        self._thread = threading.Thread(target=self._run, name="answer-log", daemon=True)
        self._thread.start()

    def add(
        self,
        origin: Origin,
        request: RankRequest,
        task: TaskSpec,
        ranking: Ranking,
        *,
        history: int,
        locale: str | None,
    ) -> None:
        """Log an answer, or drop and count it if too many wait. Never blocks for the store.

        Args:
            origin: Where the request comes from.
            request: The request.
            task: Its task.
            ranking: The answer, with raw probabilities.
            history: Number of the member's past interactions.
            locale: Of the member; None if it is not known.
        """
        if not _is_in_share(origin.request_id, self._config.share):
            return
        answer = _Answer(origin=origin, request=request, task=task, ranking=ranking, history=history, locale=locale)
        with self._condition:
            if self._closing.is_set() or self._rows + answer.rows > self._config.waiting_rows:
                self._meters.answer_rows.labels("dropped").inc(answer.rows)
                return
            self._pending.append(answer)
            self._rows += answer.rows
            if self._is_full():
                self._condition.notify()

    def close(self) -> None:
        """Write what waits, and stop. After ten seconds without success the answers are dropped."""
        with self._condition:
            self._closing.set()
            self._condition.notify()
        self._thread.join(_CLOSE_SECONDS)

    def _is_full(self) -> bool:
        return self._rows >= self._config.file_rows

    def _run(self) -> None:
        is_last = False
        while not is_last:
            with self._condition:
                self._condition.wait_for(
                    lambda: self._closing.is_set() or self._is_full(), timeout=self._config.file_seconds
                )
                answers, self._pending = self._pending, []
                is_last = self._closing.is_set()  # `add` adds nothing from now on
            if answers:
                self._write(answers)

    def _write(self, answers: list[_Answer]) -> None:
        rows = sum(answer.rows for answer in answers)
        is_written = False
        try:
            is_written = self._store(self._key(), _encode([self._columns(answer) for answer in answers]))
        except Exception:  # a bug must not end the log
            _LOG.exception("an answer log file of %d rows could not be made; its answers are dropped", rows)
        self._meters.answer_rows.labels("written" if is_written else "dropped").inc(rows)
        with self._condition:
            self._rows -= rows

    def _store(self, key: str, data: bytes) -> bool:
        """Create the object, however long that takes; a log that closes tries once. Return whether it succeeded."""
        problem = ""
        while True:
            is_last = self._closing.is_set()
            try:
                self._open(self._config.url).put_if_absent(key, data)  # False: an earlier attempt did create it
                return True
            except StorageError as error:
                if str(error) != problem:
                    _LOG.error("the answer log cannot be written, and is tried again: %s", error)
                problem = str(error)
            if is_last:
                return False
            self._closing.wait(_RETRY_SECONDS)

    def _key(self) -> str:
        now = datetime.now(UTC)
        return f"{now:%Y-%m-%d}/{now:%Y%m%dT%H%M%SZ}-v{self._version}-{secrets.token_hex(8)}.parquet"

    def _columns(self, answer: _Answer) -> dict[str, list[Any]]:
        """Return the columns of an answer by name."""
        candidates, unscored = answer.ranking.candidates, answer.ranking.unscored
        returned = len(candidates[: answer.request.top_k])
        constant = {
            "request_id": answer.origin.request_id,
            "time": round(answer.origin.received * 1e6),
            "version": self._version,
            "role": answer.origin.role,
            "task": answer.task.name,
            "surface": answer.task.surface,
            "is_trained": answer.task.in_training,
            "member": _member(answer, self._pseudonyms),
            "history": answer.history,
            "locale": answer.locale,
        }
        return {
            **{name: [value] * answer.rows for name, value in constant.items()},
            "entity_id": [self._pseudonyms.of_entity(id_) for id_ in (*(item.id for item in candidates), *unscored)],
            "score": [*(item.score for item in candidates), *[None] * len(unscored)],
            "probabilities": [*(list(item.probabilities.values()) for item in candidates), *[None] * len(unscored)],
            "returned": [place < returned for place in range(answer.rows)],
        }


def _is_in_share(request_id: str, share: float) -> bool:
    """Return whether a request is logged; a larger share includes a smaller one."""
    return int.from_bytes(blake2b(request_id.encode(), digest_size=8).digest()) < share * 2**64


def _member(answer: _Answer, pseudonyms: Pseudonyms) -> str:
    """Return the hash of what identifies the member: an id, or else their profile, or else the request."""
    request = answer.request
    if (id_ := request.member_id or request.routing_key) is not None:
        return pseudonyms.of(id_)
    profile = request.member.profile if request.member is not None else {}
    text = json.dumps(profile, sort_keys=True) if profile else answer.origin.request_id
    return pseudonyms.of(f"inline {text}")


def _encode(answers: list[dict[str, list[Any]]]) -> bytes:
    """Return a Parquet file with the rows of all answers."""
    columns = {
        field.name: pa.array([value for answer in answers for value in answer[field.name]], field.type)
        for field in LOGGED_ANSWERS
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=LOGGED_ANSWERS), sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data

"""The versioned model registry, on any object store; no server and no database.

    models/<name>/blobs/sha256/<digest>        content of each file, uploaded first
    models/<name>/versions/<20 digits>.json    create-only manifest; a version exists when this does
    models/<name>/events/<20 digits>.json      create-only log; an alias is a fold of it

Holds publishing, fetching and the moves of aliases.
"""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from brew_platform.errors import RegistryError, UserError
from brew_platform.registry.blobs import Blobs, File
from brew_platform.registry.events import (
    KINDS,
    MOVES,
    SHARED,
    Event,
    GateOutcome,
    aliases,
    retired,
    rollback_target,
)
from brew_platform.registry.log import NumberedLog
from brew_platform.storage.base import ObjectStore

__all__ = ["Event", "File", "GateOutcome", "Registry", "Version"]

_SHARES = {"canary": 0.05, "shadow": 0.1}  # of the traffic, where none is given


@dataclass(frozen=True, kw_only=True)
class Version:
    """One published model; never changed after it was written."""

    number: int
    files: tuple[File, ...]
    signature: Mapping[str, Any]  # what a server must know: task suite, prompt format, context length
    lineage: Mapping[str, Any]  # where it comes from: parent version, plan hash, config digest, git commit, job id
    metrics: Mapping[str, Any]  # the benchmark's report
    author: str
    time: str  # ISO 8601, UTC
    write_id: str  # unique to the publication

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class Registry:
    """The versions of one model.

    Args:
        store: where it lives; several registries, and many processes, may share one.
        model: its name there.
        clock: the present time, with its zone.
        new_id: a string that no other call returns, of letters and digits.
    """

    def __init__(
        self,
        store: ObjectStore,
        model: str = "brew360",
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", model):
            raise UserError(
                f"{model!r} cannot name a model: use letters, digits and ._- and begin with one of the first two."
            )
        self.store = store
        self.model = model
        self._clock = clock
        self._new_id = new_id
        self._blobs = Blobs(store, f"models/{model}/blobs")
        self._versions = NumberedLog(store, f"models/{model}/versions")
        self._events = NumberedLog(store, f"models/{model}/events")
        self._seen: dict[int, Event] = {}  # an event never changes, so it is read once

    def publish(
        self,
        folder: Path,
        *,
        signature: Mapping[str, Any],
        lineage: Mapping[str, Any],
        metrics: Mapping[str, Any],
        author: str,
    ) -> Version:
        """Publishes all files of `folder` as the next version.

        Blobs go first and the manifest last, so a crash on the way leaves no version; publishing again then re-uses
        what was uploaded.

        Raises:
            UserError: `folder` is missing or empty, or a mapping holds what JSON cannot.
            RegistryError: a file changed while it was published.
            StorageError: the store failed.
        """
        files = self._blobs.upload(folder)
        document = {
            "files": [asdict(file) for file in files],
            "signature": signature,
            "lineage": lineage,
            "metrics": metrics,
            "author": author,
            "time": self._time(),
        }
        return self.version(self._versions.append(lambda number: document, write_id=self._new_id()))

    def versions(self) -> list[int]:
        """Numbers of all published versions, ascending."""
        return self._versions.numbers()

    def version(self, number: int) -> Version:
        """The manifest of a version.

        Raises:
            RegistryError: there is none, or it is damaged.
        """
        self._require(number)
        document = self._versions.read(number)
        try:
            return Version(
                number=number,
                files=tuple(File(**file) for file in document["files"]),
                **{name: document[name] for name in ("signature", "lineage", "metrics", "author", "time", "write_id")},
            )
        except (KeyError, TypeError) as error:
            raise RegistryError(
                f"the manifest of version {number} of {self.model} is damaged: {error}. Restore its object from a "
                f"backup of the store, or serve another version."
            ) from error

    def fetch(self, number: int, folder: Path) -> Path:
        """A folder below `folder` with the verified files of a version; fetched once, re-used afterwards.

        Size and sha256 of each file are checked when it is fetched, and the folder appears only when all is right; a
        folder found there is re-used when its sizes are right. Safe for processes that fetch at the same time.

        Raises:
            RegistryError: there is no such version, or a blob is missing or damaged (it is named).
            StorageError: the store or the disk failed.
        """
        version = self.version(number)
        unique = re.sub(r"\W", "", version.write_id)[:12]  # two stores may share one cache
        target = folder / f"{self.model}-{number}-{unique}"
        self._blobs.fetch(version.files, target)
        return target

    def events(self) -> list[Event]:
        """The whole log, oldest first."""
        numbers = self._events.numbers()
        for number in numbers:
            if number not in self._seen:
                self._seen[number] = Event.from_document(number, self._events.read(number))
        return [self._seen[number] for number in numbers]

    def aliases(self) -> dict[str, int]:
        """Where each alias points."""
        return aliases(self.events())

    def resolve(self, alias_or_number: str | int) -> int:
        """The number of the version that an alias (`production`) or a number (`7`, `"7"`) means.

        Raises:
            RegistryError: no such alias or version.
        """
        if isinstance(alias_or_number, int) or alias_or_number.isdecimal():
            self._require(int(alias_or_number))
            return int(alias_or_number)
        known = self.aliases()
        if alias_or_number not in known:
            names = ", ".join(known) or "none yet"
            raise RegistryError(
                f"{self.model} has no alias {alias_or_number!r}; there are: {names}. Promote a version to it first."
            )
        return known[alias_or_number]

    def append(
        self,
        kind: str,
        number: int,
        *,
        author: str,
        alias: str | None = None,
        note: str = "",
        share: float | None = None,
    ) -> Event:
        """Records an event that no gate decides: canary, shadow, failed, approve, retire, tag.

        A canary moves the alias `canary`, a shadow the alias `shadow`; a share of 0 ends either.

        Args:
            share: of the traffic, 0 to 1; for a canary .05 and for a shadow .1 where it is not given.

        Raises:
            UserError: another kind, as promotions and rollbacks have methods of their own; or a share where there can
                be none, or that is none.
            RegistryError: no such version, or a canary or shadow of a retired one.
        """
        if kind not in KINDS or kind in ("promote", "rollback", "blocked"):
            raise UserError(
                f"{kind!r} cannot be appended: use canary, shadow, failed, approve, retire or tag, or promote() or "
                f"rollback()."
            )
        self._require(number)
        if kind in SHARED:
            alias = alias or kind
            share = _SHARES[kind] if share is None else share
            if not 0 <= share <= 1:
                raise UserError(
                    f"the share of a {kind} is {share}; give a number from 0 (no traffic) to 1 (all of it)."
                )
            self._refuse_retired(number)
        elif share is not None:
            raise UserError(
                f"an event of kind {kind} has no share of the traffic; leave it out, or use canary or shadow."
            )
        return self._append(lambda events: number, kind=kind, alias=alias, author=author, note=note, share=share)

    def promote(
        self, number: int, *, alias: str = "production", gates: Sequence[GateOutcome], author: str, note: str = ""
    ) -> Event:
        """Points `alias` at a version, when every gate passed; the outcome of the gates is recorded either way.

        Raises:
            RegistryError: a gate failed (recorded as an event of kind "blocked"), no such version, or it is retired.
        """
        self._require(number)
        self._refuse_retired(number)
        failed = [gate for gate in gates if not gate.passed]
        kind = "blocked" if failed else "promote"
        event = self._append(lambda events: number, kind=kind, alias=alias, author=author, note=note, gates=gates)
        if failed:
            raise RegistryError(
                f"version {number} of {self.model} was not promoted to {alias}: {'; '.join(map(str, failed))}. Event "
                f"{event.number} records it. Publish a version that passes, or correct the gate."
            )
        return event

    def rollback(self, alias: str = "production", *, author: str, note: str = "") -> Event:
        """Points `alias` back at the version it pointed to before, retired ones left out.

        Raises:
            RegistryError: there is no earlier version.
        """
        return self._append(
            lambda events: rollback_target(alias, events), kind="rollback", alias=alias, author=author, note=note
        )

    def _append(
        self,
        decide: Callable[[list[Event]], int],
        *,
        kind: str,
        alias: str | None,
        author: str,
        note: str,
        gates: Sequence[GateOutcome] = (),
        share: float | None = None,
    ) -> Event:
        """Writes an event about the version that `decide` takes from all events before it."""
        if (alias is None and kind in MOVES) or (
            alias is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", alias)
        ):
            raise UserError(f"{alias!r} cannot be an alias: use letters, digits and ._- and start with a letter.")
        write_id, time = self._new_id(), self._time()

        def make(slot: int) -> dict[str, Any]:
            before = [event for event in self.events() if event.number < slot]
            return Event(
                number=slot,
                kind=kind,
                version=decide(before),
                alias=alias,
                author=author,
                time=time,
                gates=tuple(gates),
                note=note,
                share=share,
            ).document()

        number = self._events.append(make, write_id=write_id)
        return Event.from_document(number, self._events.read(number))

    def _time(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="seconds")

    def _require(self, number: int) -> None:
        if number < 1 or not self._versions.exists(number):
            known = self.versions()
            last = f"the newest is {known[-1]}" if known else "none was published yet"
            raise RegistryError(f"{self.model} has no version {number}; {last}. Give the number of one that exists.")

    def _refuse_retired(self, number: int) -> None:
        if number in retired(self.events()):
            raise RegistryError(f"version {number} of {self.model} is retired. Promote another, or publish it again.")

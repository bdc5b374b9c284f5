"""The versioned model registry on an object store. It needs no server and no database.

    models/<name>/blobs/sha256/<digest>        content of each file, uploaded first
    models/<name>/versions/<20 digits>.json    manifest, created last; a version exists if its manifest exists
    models/<name>/events/<20 digits>.json      create-only log of events; aliases are computed from it

Data sets have the same keys below `datasets`. All objects are immutable.
"""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from brew_platform.errors import RegistryError, StorageError, UserError
from brew_platform.registry.blobs import Blobs, File
from brew_platform.registry.events import (
    KINDS,
    SHARED,
    Event,
    aliases,
    retired,
    rollback_target,
)
from brew_platform.registry.gates import Gate, GateOutcome, Measured, judge
from brew_platform.registry.log import NumberedLog
from brew_platform.registry.model_digest import model_digest
from brew_platform.settings import require_name
from brew_platform.storage.base import ObjectStore

__all__ = ["Event", "Fault", "File", "Gate", "GateOutcome", "Registry", "Version"]

_NUMBER = re.compile(r"[1-9][0-9]{0,18}")  # 007 is not version 7
_SHARES = {"canary": 0.05, "shadow": 0.1}  # default share of the traffic


@dataclass(frozen=True, kw_only=True)
class Version:
    """One published version of a model, or of a data set. It never changes."""

    number: int
    files: tuple[File, ...]
    signature: Mapping[str, Any]  # what a server or a trainer must know: task suite, prompt format, context length
    lineage: Mapping[str, Any]  # where it comes from: parent version, plan hash, config digest, git commit, job id
    metrics: Mapping[str, Any]  # figures of the benchmark, by task
    gates: tuple[Gate, ...] = ()  # a promotion judges them unless it names others
    author: str
    time: str  # ISO 8601, UTC
    write_id: str  # unique per publication

    @property
    def size(self) -> int:
        """The total size of all files, in bytes."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A manifest or a blob that `Registry.verify` found missing or damaged."""

    version: int
    name: str  # path of the file in the version; "manifest" for the manifest
    problem: str


class Registry:
    """The versions of one model, or of one data set.

    Args:
        store: The object store. Several registries and processes can share it.
        model: The name of the model in the store.
        section: `models`, or `datasets`: the first part of every key.
        clock: Returns the current time with a time zone.
        new_id: Returns a unique string of letters and digits.

    Raises:
        UserError: `model` is not a valid name.
    """

    def __init__(
        self,
        store: ObjectStore,
        model: str = "brew360",
        *,
        section: str = "models",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self.store = store
        self.model = require_name("model", model)
        self._clock = clock
        self._new_id = new_id
        self._blobs = Blobs(store, f"{section}/{model}/blobs")
        self._versions = NumberedLog(store, f"{section}/{model}/versions")
        self._events = NumberedLog(store, f"{section}/{model}/events")
        self._seen: dict[int, Event] = {}  # a cache: events never change

    def publish(
        self,
        folder: Path,
        *,
        signature: Mapping[str, Any],
        lineage: Mapping[str, Any],
        metrics: Mapping[str, Any],
        author: str,
        gates: Sequence[Gate] = (),
        measured_digest: str | None = None,
        skip: Sequence[str] = (),
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Version:
        """Publishes all files of `folder` as the next version.

        Blobs go first and the manifest last, so a crash on the way leaves no version; publishing again then re-uses
        what was uploaded.

        Args:
            folder: The files of the version.
            signature: What a server must know: tasks, prompt format, prompt digest.
            lineage: Where the version comes from.
            metrics: Figures of its benchmark, by task; the gates of a promotion are judged on them.
            author: Who publishes.
            gates: The gates of its promotions.
            measured_digest: `model_digest` of the files that `metrics` were measured on; None: not known.
            skip: Names of files and folders in `folder` that are not published.
            on_progress: Called with (bytes in the store, bytes of all files).

        Raises:
            UserError: `folder` is missing or empty, or a mapping holds what JSON cannot.
            RegistryError: The store has a damaged blob of one of the files.
            StorageError: The store failed, or a file changed while it was published, or after it was measured.
        """
        files = self._blobs.upload(folder, on_progress, skip=skip)
        if measured_digest is not None and model_digest(files) != measured_digest:
            raise StorageError(
                f"cannot publish {folder}: its files changed after they were measured, so that the figures are of "
                f"another model. Measure it again when no process writes to it."
            )
        document = {
            "files": [asdict(file) for file in files],
            "signature": signature,
            "lineage": lineage,
            "metrics": metrics,
            "gates": [gate.document() for gate in gates],
            "author": author,
            "time": self._time(),
        }
        return self.version(self._versions.append(lambda number: document, write_id=self._new_id()))

    def versions(self) -> list[int]:
        """Return the numbers of all published versions, ascending."""
        return self._versions.numbers()

    def version(self, number: int) -> Version:
        """Read the manifest of a version.

        Raises:
            RegistryError: The version does not exist, or its manifest is damaged.
        """
        self._require(number)
        document = self._versions.read(number)
        try:
            return Version(
                number=number,
                files=tuple(File(**file) for file in document["files"]),
                gates=tuple(Gate(**gate) for gate in document.get("gates", ())),  # earlier releases wrote none
                **{name: document[name] for name in ("signature", "lineage", "metrics", "author", "time", "write_id")},
            )
        except (KeyError, TypeError, AttributeError, UserError) as error:
            raise RegistryError(
                f"the manifest of version {number} of {self.model} is damaged: {error}. Restore its object from a "
                f"backup of the store, or serve another version."
            ) from error

    def fetch(self, number: int, folder: Path) -> Path:
        """Download the files of a version into a new folder below `folder`, or reuse the existing one.

        The size and SHA-256 of each file are verified at the download, and the new folder appears only after that. An
        existing folder is reused if its files are right; files that changed since their verification are hashed again.
        Several processes can fetch at the same time.

        Args:
            number: The number of the version.
            folder: The cache folder.

        Returns:
            The folder with the files.

        Raises:
            RegistryError: The version does not exist, or a blob is missing or damaged (the message names it).
            StorageError: The store or the disk failed.
        """
        version = self.version(number)
        unique = re.sub(r"\W", "", version.write_id)[:12]  # several stores can share one cache folder
        target = folder / f"{self.model}-{number}-{unique}"
        self._blobs.fetch(version.files, target)
        return target

    def verify(
        self, numbers: Sequence[int] | None = None, *, on_version: Callable[[int], None] = lambda number: None
    ) -> list[Fault]:
        """Hash every blob of versions again, and compare it with what was published.

        Args:
            numbers: The versions; None: all.
            on_version: Called with each version that was checked.

        Returns:
            Every manifest and blob that is missing or damaged; empty if all are right.

        Raises:
            RegistryError: A number in `numbers` is not a version.
            StorageError: The store failed.
        """
        faults = []
        checked: dict[File, str | None] = {}  # versions share blobs
        for number in self.versions() if numbers is None else numbers:
            self._require(number)
            try:
                files = self.version(number).files
            except RegistryError as error:
                faults.append(Fault(version=number, name="manifest", problem=str(error)))
                continue
            for file in files:
                if file not in checked:
                    checked[file] = self._blobs.check(file)
                if problem := checked[file]:
                    faults.append(Fault(version=number, name=file.path, problem=problem))
            on_version(number)
        return faults

    def events(self) -> list[Event]:
        """Return all events, oldest first."""
        numbers = self._events.numbers()
        for number in numbers:
            if number not in self._seen:
                self._seen[number] = Event.from_document(number, self._events.read(number))
        return [self._seen[number] for number in numbers]

    def aliases(self) -> dict[str, int]:
        """Return the version number of each alias."""
        return aliases(self.events())

    def resolve(self, alias_or_number: str | int) -> int:
        """Return the version number of an alias (`production`), or check a number (`7`, `"7"`).

        Raises:
            RegistryError: The alias or the version does not exist.
        """
        if isinstance(alias_or_number, int) or _NUMBER.fullmatch(alias_or_number):
            self._require(int(alias_or_number))
            return int(alias_or_number)
        known = self.aliases()
        if alias_or_number not in known:
            names = ", ".join(known) or "none yet"
            raise RegistryError(
                f"{self.model} has no alias {alias_or_number!r}; existing are: {names}. Promote a version to it first."
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
        """Record an event that does not depend on a gate.

        A canary moves the alias `canary`, a shadow the alias `shadow`. A share of 0 ends the canary or shadow.

        Args:
            kind: canary, shadow, failed, approve, retire or tag. Promotions and rollbacks have their own methods.
            number: The number of the version.
            author: The name of the author.
            alias: The alias of the event; None for the default of `kind`.
            note: A comment.
            share: The share of the traffic, from 0 to 1, of a canary (default .05) or a shadow (default .1).

        Returns:
            The recorded event.

        Raises:
            UserError: `kind`, `alias` or `share` is invalid.
            RegistryError: The version does not exist, or it is retired and `kind` is canary or shadow.
        """
        if kind not in KINDS or kind in ("promote", "rollback", "blocked"):
            raise UserError(
                f"{kind!r} cannot be appended. Use canary, shadow, failed, approve, retire or tag, or call promote() "
                f"or rollback()."
            )
        self._require(number)
        if kind in SHARED:
            alias = alias or kind
            share = _SHARES[kind] if share is None else share
            if not 0 <= share <= 1:
                raise UserError(
                    f"the share of a {kind} is {share}. Set a number from 0 (no traffic) to 1 (all traffic)."
                )
        elif share is not None:
            raise UserError(
                f"an event of kind {kind} has no share of the traffic. Leave it out, or use canary or shadow."
            )

        def decide(events: list[Event]) -> dict[str, Any]:
            if kind in SHARED:
                self._refuse_retired(number, events)
            return {"kind": kind, "version": number}

        return self._append(decide, alias=alias, author=author, note=note, share=share)

    def promote(
        self,
        number: int,
        *,
        alias: str = "production",
        gates: Sequence[Gate] | None = None,
        author: str,
        note: str = "",
        force: bool = False,
        reason: str = "",
    ) -> Event:
        """Point `alias` at a version if its recorded figures pass every gate. The outcome is recorded either way.

        Args:
            number: The version.
            alias: The alias to move.
            gates: Judged on the version's metrics; None: the gates that the version was published with.
            author: Who promotes.
            note: Kept in the event.
            force: Promote without gates, or although a gate fails.
            reason: Why the promotion is forced; kept in the event.

        Raises:
            UserError: There are no gates and the promotion is not forced, or `force` and `reason` are not given
                together.
            RegistryError: A gate failed (recorded as an event of kind "blocked"), there is no such version, or it is
                retired.
        """
        version = self.version(number)
        gates = version.gates if gates is None else gates
        if not all(isinstance(gate, Gate) for gate in gates):
            raise UserError("a promotion takes gates, of type Gate: the registry judges them itself.")
        if force != bool(reason.strip()):
            raise UserError(
                f"version {number} of {self.model} was not promoted: "
                + ("a forced promotion needs a reason, which the log keeps." if force else "a reason needs force.")
                + " Give both, or neither."
            )
        if not gates and not force:
            raise UserError(
                f"version {number} of {self.model} was not promoted: it has no gates, so that nothing was judged. Name "
                f"gates in the recipe (release.gates), or force the promotion with a reason."
            )

        def decide(events: list[Event]) -> dict[str, Any]:
            self._refuse_retired(number, events)
            current = aliases(events).get(alias)
            replaced = None if current is None else _measured(self.version(current))
            outcomes = judge(gates, _measured(version), replaced)
            passes = force or all(outcome.passed for outcome in outcomes)
            return {"kind": "promote" if passes else "blocked", "version": number, "gates": outcomes}

        event = self._append(decide, alias=alias, author=author, note=note, force_reason=reason.strip() or None)
        if event.kind == "blocked":
            failed = "; ".join(str(gate) for gate in event.gates if not gate.passed)
            raise RegistryError(
                f"version {number} of {self.model} was not promoted to {alias}: {failed}. Event {event.number} records "
                f"it. Publish a version that passes, or correct the gate."
            )
        return event

    def rollback(self, alias: str = "production", *, author: str, note: str = "") -> Event:
        """Point `alias` back at the version it pointed to before, retired ones left out.

        Raises:
            RegistryError: There is no earlier version.
        """
        return self._append(
            lambda events: {"kind": "rollback", "version": rollback_target(alias, events)},
            alias=alias,
            author=author,
            note=note,
        )

    def _append(self, decide: Callable[[list[Event]], Mapping[str, Any]], *, alias: str | None, **fields: Any) -> Event:
        """Write an event.

        Args:
            decide: All events before it -> its kind, its version, and further fields that depend on them. Called again
                if another process wrote an event meanwhile.
            alias: The alias of the event.
            **fields: Its other fields.
        """
        if alias is not None and require_name("alias", alias).isdecimal():
            raise UserError(f"{alias!r} is not a valid alias name: it is the number of a version. Use a letter in it.")
        write_id, time = self._new_id(), self._time()

        def make(slot: int) -> dict[str, Any]:
            before = [event for event in self.events() if event.number < slot]
            return Event(number=slot, alias=alias, time=time, **fields, **decide(before)).document()

        number = self._events.append(make, write_id=write_id)
        return Event.from_document(number, self._events.read(number))

    def _time(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="seconds")

    def _require(self, number: int) -> None:
        if number < 1 or not self._versions.exists(number):
            known = self.versions()
            last = f"the newest is {known[-1]}" if known else "none was published yet"
            raise RegistryError(f"{self.model} has no version {number}; {last}. Give the number of one that exists.")

    def _refuse_retired(self, number: int, events: list[Event]) -> None:
        if number in retired(events):
            raise RegistryError(f"version {number} of {self.model} is retired. Promote another, or publish it again.")


def _measured(version: Version) -> Measured:
    return Measured(number=version.number, metrics=version.metrics, lineage=version.lineage)

"""The versioned model registry on an object store. It needs no server and no database.

    models/<name>/blobs/sha256/<digest>        content of each file, uploaded first
    models/<name>/versions/<20 digits>.json    manifest, created last; a version exists if its manifest exists
    models/<name>/events/<20 digits>.json      create-only log of events; aliases are computed from it
    models/<name>/snapshots/<20 digits>.json   copies of the first events, so that a reader need not read each
    models/<name>/holds/, collections/         what is in use, and running garbage collections (`holds`)

Data sets have the same keys below `datasets`. All objects are immutable. Only garbage collection deletes blobs
(`garbage`); manifests and events stay.
"""

import hashlib
import re
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from brew_platform.errors import RegistryError, StorageError, UserError
from brew_platform.registry.blobs import Blobs, File, list_files
from brew_platform.registry.decisions import (
    Decision,
    decide_policy,
    decide_promotion,
    decide_retirement,
    decide_rollback,
    decide_sharing,
)
from brew_platform.registry.event_log import EventLog, Fault
from brew_platform.registry.events import (
    KINDS,
    SHARED,
    Event,
    aliases,
    collected,
    in_use,
    retired,
    rollback_target,
)
from brew_platform.registry.gates import Gate, GateOutcome
from brew_platform.registry.holds import Holds
from brew_platform.registry.log import NumberedLog
from brew_platform.registry.model_digest import model_digest
from brew_platform.registry.pickles import refuse_pickles
from brew_platform.registry.policy import Policy, policy_of
from brew_platform.registry.version import Version
from brew_platform.settings import PlainName, require_name
from brew_platform.storage.base import ObjectStore

__all__ = ["Event", "Fault", "File", "Gate", "GateOutcome", "Registry", "Version"]

_NUMBER = re.compile(r"[1-9][0-9]{0,18}")  # 007 is not version 7
_SHARES = {"canary": 0.05, "shadow": 0.1}  # default share of the traffic
_OWN_METHODS = ("promote", "rollback", "blocked", "collect", "policy")  # kinds that `append` does not write


class Registry:
    """The versions of one model, or of one data set.

    Args:
        store: The object store. Several registries and processes can share it.
        model: The name of the model in the store.
        section: `models`, or `datasets`: the first part of every key.
        clock: Returns the current time with a time zone.
        new_id: Returns a unique string of letters and digits.

    Attributes:
        blobs: The content of all files.
        log: The events.
        holds: What is in use; services and jobs hold the versions that they use.

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
        self._section, self._new_id = section, new_id
        prefix = f"{section}/{model}"
        self.blobs = Blobs(store, f"{prefix}/blobs")
        self.holds = Holds(store, prefix, new_id=new_id)
        self._versions = NumberedLog(store, f"{prefix}/versions")
        self.log = EventLog(store, prefix, clock=clock, new_id=new_id)

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
        publication: str | None = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Version:
        """Publishes all files of `folder` as the next version.

        Blobs go first and the manifest last, so a crash on the way leaves no version; publishing again then re-uses
        what was uploaded. A garbage collection that runs is waited for.

        Args:
            folder: The files of the version.
            signature: What a server must know: tasks, prompt format, prompt digest.
            lineage: Where the version comes from.
            metrics: Figures of its benchmark, by task; the gates of a promotion are judged on them.
            author: Who publishes.
            gates: The gates of its promotions.
            measured_digest: `model_digest` of the files that `metrics` were measured on; None: not known.
            skip: Names of files and folders in `folder` that are not published.
            publication: Identifies this publication: if a version was published with the same text, it is returned, so
                that the call can be repeated after a crash. None: every call makes a version.
            on_progress: Called with (bytes in the store, bytes of all files).

        Raises:
            UserError: `folder` is missing or empty, one of its files is a pickle, a mapping holds what JSON cannot, or
                `publication` identifies a version with other files.
            RegistryError: The store has a damaged blob of one of the files.
            StorageError: The store failed, or a file changed while it was published, or after it was measured. The
                version may exist if the store stopped answering; `publication` prevents a second one.
        """
        paths = list_files(folder, skip=skip)
        write_id = self._new_id()
        if publication is not None:
            write_id = hashlib.sha256(publication.encode()).hexdigest()[:32]
            if (number := self._published(write_id)) is not None:
                return self._same_files(self.version(number), publication, folder, paths)
        if self._section == "models":
            refuse_pickles(paths)
        with self.holds.hold(f"the publication by {author}", publishes=True) as hold:
            files = self.blobs.upload(folder, on_progress, skip=skip)
            if measured_digest is not None and model_digest(files) != measured_digest:
                raise StorageError(
                    f"cannot publish {folder}: its files changed after they were measured, so that the figures are of "
                    f"another model. Measure it again when no process writes to it."
                )
            version = Version(
                number=0,
                files=files,
                signature=signature,
                lineage=lineage,
                metrics=metrics,
                gates=tuple(gates),
                author=author,
                time=self.log.time(),
                write_id=write_id,
            )
            return self._append_version(version, hold.require_valid)

    def copy_from(self, source: "Registry", number: int) -> Version:
        """Copy a version of another registry, which can be on another store. Aliases and events are not copied.

        The copy gets the next number. Its lineage names the original as `copied_from`. A version that was copied
        before, in either direction, is returned instead.

        Args:
            source: The other registry.
            number: The version there.

        Raises:
            RegistryError: There is no such version, or a blob is missing or damaged.
            StorageError: A store or the disk failed.
        """
        original = source.version(number)
        if (known := self._published(original.write_id)) is not None:
            return self.version(known)
        origin = {"registry": source.store.url, "model": source.model, "version": number}
        copy = replace(original, lineage={**original.lineage, "copied_from": origin})
        with (
            self.holds.hold(f"the copy of version {number} of {source.model}", publishes=True) as hold,
            source.holds.hold(f"a copy to {self.store.url}", versions=[number], required=False),
            tempfile.TemporaryDirectory(prefix="brew360-copy-") as folder,
        ):
            try:
                for file in original.files:
                    self.blobs.copy_from(source.blobs, file, Path(folder))
            except RegistryError as error:
                raise source.explain(number, error) from error
            return self._append_version(copy, hold.require_valid)

    def versions(self) -> list[int]:
        """Return the numbers of all published versions, ascending."""
        return self._versions.numbers()

    def version(self, number: int) -> Version:
        """Read the manifest of a version.

        Raises:
            RegistryError: The version does not exist, or its manifest is damaged.
        """
        self._require(number)
        return Version.from_document(number, self._versions.read(number), model=self.model)

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
            RegistryError: The version does not exist, a blob is missing or damaged (the message names it), or the
                files were removed by garbage collection.
            StorageError: The store or the disk failed.
        """
        version = self.version(number)
        target = folder / self.folder_name(version)
        try:
            self.blobs.fetch(version.files, target)
        except RegistryError as error:
            raise self.explain(number, error) from error
        return target

    def folder_name(self, version: Version) -> str:
        """Return the name of the folder that `fetch` creates for a version."""
        unique = re.sub(r"\W", "", version.write_id)[:12]  # several stores can share one cache folder
        return f"{self.model}-{version.number}-{unique}"

    def explain(self, number: int, error: RegistryError) -> RegistryError:
        """Return the error that says why a blob of a version is missing: garbage collection, or `error` itself."""
        event = collected(self.events()).get(number)
        if event is None:
            return error
        return RegistryError(
            f"version {number} of {self.model} has no files any more: it was retired, and garbage collection removed "
            f"them at {event.time} (event {event.number}). Use another version, or publish the files again."
        )

    def verify(
        self, numbers: Sequence[int] | None = None, *, on_version: Callable[[int], None] = lambda number: None
    ) -> list[Fault]:
        """Hash every blob of versions again, and compare it with what was published.

        Versions whose files garbage collection has removed are left out.

        Args:
            numbers: The versions; None: all, and also the events and their snapshots.
            on_version: Called with each version that was checked.

        Returns:
            Every object that is missing or damaged; empty if all are right.

        Raises:
            RegistryError: A number in `numbers` is not a version.
            StorageError: The store failed.
        """
        events, log_faults = self.log.check()
        faults = log_faults if numbers is None else []
        removed = collected(events)
        checked: dict[File, str | None] = {}  # versions share blobs
        for number in self.versions() if numbers is None else numbers:
            self._require(number)
            try:
                files = self.version(number).files if number not in removed else ()
            except RegistryError as error:
                faults.append(Fault(version=number, name="manifest", problem=str(error)))
                continue
            for file in files:
                if file not in checked:
                    checked[file] = self.blobs.check(file)
                if problem := checked[file]:
                    faults.append(Fault(version=number, name=file.path, problem=problem))
            on_version(number)
        return faults

    def events(self) -> list[Event]:
        """Return all events, oldest first; what this process has read before is not read again."""
        return self.log.events()

    def aliases(self) -> dict[str, int]:
        """Return the version number of each alias."""
        return aliases(self.events())

    def policy(self) -> Policy:
        """Return who can move which alias; without a policy, everyone can."""
        return policy_of(self.events())

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
            remedy = "Give an alias that exists, or the number of a version."
            if PlainName().accepts(alias_or_number):
                remedy = "Promote a version to it first."
            raise RegistryError(f"{self.model} has no alias {alias_or_number!r}; existing are: {names}. {remedy}")
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
            RegistryError: The version does not exist, it is retired already, or the policy or a missing file forbids
                the canary or shadow. The log keeps the refusal.
        """
        if kind not in KINDS or kind in _OWN_METHODS:
            raise UserError(
                f"{kind!r} cannot be appended. Use canary, shadow, failed, approve, retire or tag, or call promote() "
                f"or rollback()."
            )
        self._require(number)
        version = self.version(number) if kind in SHARED else None
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

        def decide(events: list[Event]) -> Decision:
            if kind == "retire":
                return decide_retirement(number, events, model=self.model)
            if version is None or share is None:
                return Decision(kind=kind, version=number)
            return decide_sharing(
                kind,
                version,
                events,
                model=self.model,
                alias=alias or kind,
                author=author,
                share=share,
                missing=self._missing(version),
            )

        return self.log.append(decide, alias=alias, author=author, note=note, share=share)

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
        replaces: int | None = None,
    ) -> Event:
        """Point `alias` at a version if its recorded figures pass every gate. The outcome is recorded either way.

        All conditions are judged in the append, on the events before it, so that of two promotions at the same time the
        second is judged against the version of the first.

        Args:
            number: The version.
            alias: The alias to move.
            gates: Judged on the version's metrics; None: the gates that the version was published with.
            author: Who promotes.
            note: Kept in the event.
            force: Promote without gates, or although a gate fails. The policy's roles and approvals still apply.
            reason: Why the promotion is forced; kept in the event.
            replaces: The version that the alias must point to; None: any, or none.

        Raises:
            UserError: There are no gates and the promotion is not forced, or `force` and `reason` are not given
                together.
            RegistryError: A gate or the policy failed, the version is retired, one of its files is missing, or the
                alias points to another version than `replaces`, each recorded as an event of kind "blocked"; or there
                is no such version.
        """
        decide = self._decide_promotion(number, alias, gates, author, force=force, reason=reason, replaces=replaces)
        return self.log.append(decide, alias=alias, author=author, note=note, force_reason=reason.strip() or None)

    def check(
        self,
        number: int,
        *,
        alias: str = "production",
        gates: Sequence[Gate] | None = None,
        author: str,
        note: str = "",
    ) -> Event:
        """Judge a promotion as `promote` does, but do not move the alias. The outcome is recorded either way.

        Args:
            number: The version.
            alias: The alias that it would be promoted to.
            gates: As in `promote`.
            author: Who checks; the roles of the policy are judged for this person.
            note: Kept in the event.

        Returns:
            An event of kind "tag" with the outcomes.

        Raises:
            UserError, RegistryError: As `promote`.
        """
        judge = self._decide_promotion(number, alias, gates, author)

        def decide(events: list[Event]) -> Decision:
            decision = judge(events)
            return decision if decision.refusal else replace(decision, kind="tag")

        return self.log.append(decide, alias=alias, author=author, note=note or "checked")

    def rollback(self, alias: str = "production", *, author: str, note: str = "") -> Event:
        """Point `alias` back at the version it pointed to before, retired ones left out.

        Raises:
            RegistryError: There is no earlier version; or, recorded as an event of kind "blocked", a file of it is
                missing, or the policy does not allow it.
        """

        def decide(events: list[Event]) -> Decision:
            version = self.version(rollback_target(alias, events))
            missing = self._missing(version)
            return decide_rollback(version, events, model=self.model, alias=alias, author=author, missing=missing)

        return self.log.append(decide, alias=alias, author=author, note=note)

    def set_policy(self, policy: Policy, *, author: str, note: str = "") -> Event:
        """Replace the policy of this model.

        Raises:
            RegistryError: The present policy does not let `author` change it. The log keeps the refusal.
        """

        def decide(events: list[Event]) -> Decision:
            return decide_policy(events, model=self.model, author=author)

        return self.log.append(decide, alias=None, author=author, note=note, policy=policy.document())

    def record_collected(self, number: int, *, author: str, note: str = "") -> Event:
        """Record that garbage collection removes the files of a retired version. No alias can point to it later.

        Raises:
            RegistryError: The version is not retired, or an alias points to it. Nothing is recorded.
        """

        def decide(events: list[Event]) -> Decision:
            if number not in retired(events) or number in in_use(events):
                raise RegistryError(f"version {number} of {self.model} is in use, so that its files are kept.")
            return Decision(kind="collect", version=number)

        return self.log.append(decide, alias=None, author=author, note=note)

    def _decide_promotion(
        self,
        number: int,
        alias: str,
        gates: Sequence[Gate] | None,
        author: str,
        *,
        force: bool = False,
        reason: str = "",
        replaces: int | None = None,
    ) -> Callable[[list[Event]], Decision]:
        """Check the arguments of a promotion, and return the function that decides about it."""
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

        def decide(events: list[Event]) -> Decision:
            current = aliases(events).get(alias)
            return decide_promotion(
                version,
                events,
                model=self.model,
                alias=alias,
                author=author,
                gates=gates,
                current=None if current is None else self.version(current),
                replaces=replaces,
                force=force,
                missing=self._missing(version),
            )

        return decide

    def _append_version(self, version: Version, require_valid: Callable[[], None]) -> Version:
        """Write a manifest; `require_valid` is called just before."""

        def make(number: int) -> dict[str, Any]:
            require_valid()
            return version.document()

        number, document = self._versions.append(make, write_id=version.write_id)
        return Version.from_document(number, document, model=self.model)

    def _same_files(self, version: Version, publication: str, folder: Path, paths: Sequence[Path]) -> Version:
        """Return a version that was published before, if the paths and sizes of its files are those of `folder`."""
        files = {(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths}
        if files != {(file.path, file.size) for file in version.files}:
            raise UserError(
                f"version {version.number} of {self.model} was published as {publication!r} with other files than "
                f"those of {folder}. Use another text for this publication."
            )
        return version

    def _published(self, write_id: str) -> int | None:
        """Return the newest version with a write id whose files garbage collection has not removed; None if none."""
        removed = collected(self.events())
        for number in reversed(self.versions()):
            if self._versions.read(number).get("write_id") == write_id and number not in removed:
                return number
        return None

    def _missing(self, version: Version) -> str | None:
        """Return what is wrong with a blob of a version, without reading it; None if all are in the store."""
        return next((fault for file in version.files if (fault := self.blobs.check_size(file))), None)

    def _require(self, number: int) -> None:
        if number < 1 or not self._versions.exists(number):
            known = self.versions()
            last = f"the newest is {known[-1]}" if known else "none was published yet"
            raise RegistryError(f"{self.model} has no version {number}; {last}. Give the number of one that exists.")

"""The published versions of one model or data set: their manifests and files, without the aliases."""

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
from brew_platform.registry.event_log import EventLog, Fault
from brew_platform.registry.events import Event, collected
from brew_platform.registry.gates import Gate
from brew_platform.registry.holds import Holds
from brew_platform.registry.log import NumberedLog
from brew_platform.registry.model_digest import model_digest
from brew_platform.registry.pickles import refuse_pickles
from brew_platform.registry.version import Version
from brew_platform.settings import require_name
from brew_platform.storage.base import ObjectStore

__all__ = ["PublishedVersions"]


class PublishedVersions:
    """Publishes, copies, fetches and verifies the versions of one model, or of one data set. See `Registry`.

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

    def copy_from(self, source: "PublishedVersions", number: int) -> Version:
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

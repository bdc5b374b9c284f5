"""Copies the complete checkpoints of a run to an object store, and restores an empty run folder from there.

    <mirror>/ledger/step-00000020-5f0c1a2b.json        all segments
    <mirror>/checkpoints/step-00000020-5f0c1a2b/       the files of the checkpoint; its index is written last

A run whose disk is lost continues from the newest checkpoint in the store. Neither training nor the next checkpoint
waits for a copy: while one is uploaded, the newest of the following checkpoints is queued.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from brew_platform.errors import BrewError
from brew_platform.storage.base import ObjectStore
from brew_platform.storage.folders import INDEX, download_folder, upload_folder
from brew_train.checkpoints.ledger import LEDGER
from brew_train.checkpoints.manifest import CHECKPOINTS, Checkpoint, list_checkpoints

__all__ = ["CheckpointMirror"]

logger = logging.getLogger(__name__)


class CheckpointMirror:
    """The copies of one run in an object store.

    Args:
        store: the store; all its objects belong to this run.
        run: run folder, with the checkpoints of all workers.
        keep: number of newest checkpoints to keep in the store.
        on_copied: called in the thread of the copies with (checkpoint, seconds).
    """

    def __init__(
        self,
        store: ObjectStore,
        run: Path,
        *,
        keep: int,
        on_copied: Callable[[Checkpoint, float], None] = lambda checkpoint, seconds: None,
    ) -> None:
        self._store, self._run, self._keep, self._on_copied = store, run, keep, on_copied
        self._lock = threading.Lock()
        self._next: Checkpoint | None = None
        self._thread: threading.Thread | None = None

    def copy(self, checkpoint: Checkpoint) -> None:
        """Starts the copy of a complete checkpoint, and returns. A failure of the copy is only logged."""
        with self._lock:
            self._next = checkpoint
            if self._thread is None:
                # a daemon, so that this process can exit if the store hangs
                self._thread = threading.Thread(target=self._copy_all, name="checkpoint-mirror", daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Waits until the copies that were started are complete, or have failed."""
        if (thread := self._thread) is not None:
            thread.join()

    def restore(self) -> str | None:
        """Downloads the newest checkpoint and the ledger if the run folder has no checkpoint.

        Returns:
            Its name; None if the run folder has checkpoints, or the store has none.

        Raises:
            StorageError: the store or the disk failed, or an object is damaged.
        """
        if list_checkpoints(self._run / CHECKPOINTS) or not (names := self._complete()):
            return None
        for key in self._store.list(f"{LEDGER}/"):
            path = self._run / key
            path.parent.mkdir(parents=True, exist_ok=True)
            self._store.download(key, path)
        download_folder(self._store, self._run / CHECKPOINTS / names[0], f"{CHECKPOINTS}/{names[0]}")
        logger.info("restored checkpoint %s from %s", names[0], self._store.url)
        return names[0]

    def _copy_all(self) -> None:
        while True:
            with self._lock:
                checkpoint, self._next = self._next, None
                if checkpoint is None:
                    self._thread = None
                    return
            started = time.perf_counter()
            try:
                self._upload(checkpoint)
                self._on_copied(checkpoint, time.perf_counter() - started)
            except (BrewError, OSError) as error:  # also if the run has deleted the checkpoint meanwhile
                logger.warning("checkpoint %s was not copied to %s: %s", checkpoint.folder.name, self._store.url, error)

    def _upload(self, checkpoint: Checkpoint) -> None:
        stored = set(self._store.list(f"{LEDGER}/"))
        for segment in sorted((self._run / LEDGER).glob("*.json")):
            if (key := f"{LEDGER}/{segment.name}") not in stored:
                self._store.upload_if_absent(key, segment)
        upload_folder(checkpoint.folder, self._store, f"{CHECKPOINTS}/{checkpoint.folder.name}")
        for name in self._complete()[self._keep :]:
            folder = f"{CHECKPOINTS}/{name}"
            self._store.delete(f"{folder}/{INDEX}")  # first, so that an interruption leaves no damaged checkpoint
            for key in self._store.list(f"{folder}/"):
                self._store.delete(key)

    def _complete(self) -> list[str]:
        """Returns the names of the complete checkpoints in the store, newest first."""
        keys = [key.split("/") for key in self._store.list(f"{CHECKPOINTS}/")]
        return sorted((key[1] for key in keys if len(key) == 3 and key[2] == INDEX), reverse=True)

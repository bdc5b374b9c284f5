"""Removes the files of retired versions, and what killed publications left in the store.

A blob is garbage if it is old enough and no version has it, except versions that are retired, that no alias points to,
and that no service or job holds. A collection is safe at any time and under `kill -9`: it excludes publications
(`holds`), a version is recorded as collected in the log before its first blob is deleted, and no alias can move to a
retired version. Manifests and events stay.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from brew_platform.errors import RegistryError
from brew_platform.registry.events import Event, collected, in_use, retired
from brew_platform.registry.holds import RunningCollection
from brew_platform.registry.registry import Registry

__all__ = ["Garbage", "collect_garbage"]

_SNAPSHOTS = 2  # that are kept
_ENDED = timedelta(days=1)  # after which the object of an ended hold is deleted


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """What a collection removed, or would remove."""

    versions: tuple[int, ...]  # retired versions whose files are removed now
    blobs: tuple[str, ...]  # SHA-256 of the content that is removed
    size: int  # of the blobs, in bytes
    kept: Mapping[int, str]  # retired versions that keep their files, and why
    finished: bool = True  # whether all blobs were deleted within the time limit of a collection


def collect_garbage(
    registry: Registry,
    *,
    older_than: timedelta,
    author: str,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Garbage:
    """Delete the garbage of a registry.

    Args:
        registry: The registry.
        older_than: The age of blobs without a version, and of retirements, from which they are removed; by the clock of
            the store. At least a day while releases publish that take no holds.
        author: Who collects.
        dry_run: Return what would be removed, and change nothing but the record of this collection, which is removed.
        on_progress: Called with (blobs deleted, blobs to delete).

    Returns:
        What was removed. If it is not finished, another call continues.

    Raises:
        RegistryError: A publication runs, or a manifest, an event or a hold is damaged, so that it is not known what is
            in use. Nothing was deleted.
        StorageError: The store failed.
    """
    with registry.holds.collection(author) as running:
        holds = registry.holds.active(running.now)
        for hold in holds:
            if hold.publishes:
                raise RegistryError(
                    f"nothing was removed, because {hold.holder} runs. Run the command again when it has ended; if its "
                    f"process was killed, its record ends at {hold.expires:%Y-%m-%d %H:%M:%S} UTC."
                )
        held = {number: hold.holder for hold in holds for number in hold.versions}
        before = running.now - older_than
        kept, removed = _choose(registry, registry.events(), held, before)
        if not dry_run:
            for number in removed:
                registry.record_collected(number, author=author, note=f"retired before {before:%Y-%m-%d %H:%M} UTC")
        gone = {*collected(registry.events()), *removed}
        versions = [registry.version(number) for number in registry.versions() if number not in gone]
        used = {file.sha256 for version in versions for file in version.files}
        found = _garbage(registry, used, before)
        deleted = list(found) if dry_run else _delete(registry, list(found), running, on_progress)
        if not dry_run:
            _delete_records(registry, running.now)
        return Garbage(
            versions=tuple(removed),
            blobs=tuple(deleted),
            size=sum(found[sha256] for sha256 in deleted),
            kept=kept,
            finished=len(deleted) == len(found),
        )


def _choose(
    registry: Registry, events: list[Event], held: Mapping[int, str], before: datetime
) -> tuple[dict[int, str], list[int]]:
    """Return the retired versions that keep their files, with the reason, and those that lose them now."""
    kept: dict[int, str] = {}
    removed: list[int] = []
    aliased, gone = in_use(events), collected(events)
    retirements = {event.version: event.number for event in events if event.kind == "retire"}
    for number in sorted(retired(events) - gone.keys()):
        if number in aliased:
            kept[number] = f"{' and '.join(aliased[number])} points to it"
        elif number in held:
            kept[number] = f"{held[number]} uses it"
        elif (since := registry.log.created(retirements[number])) > before:
            kept[number] = f"retired at {since:%Y-%m-%d %H:%M} UTC, which is too recent"
        else:
            removed.append(number)
    return kept, removed


def _garbage(registry: Registry, used: set[str], before: datetime) -> dict[str, int]:
    """Return SHA-256 and size of the blobs that no version uses and that were stored before a time."""
    found = {}
    for sha256 in registry.blobs.stored():
        if sha256 not in used:
            blob = registry.blobs.describe(sha256)
            if blob is not None and blob[0] <= before:
                found[sha256] = blob[1]
    return found


def _delete(
    registry: Registry, blobs: list[str], running: RunningCollection, on_progress: Callable[[int, int], None]
) -> list[str]:
    """Delete blobs while there is time, and return those that were deleted."""
    for done, sha256 in enumerate(blobs):
        if not running.has_time():
            return blobs[:done]
        registry.blobs.delete(sha256)
        on_progress(done + 1, len(blobs))
    return blobs


def _delete_records(registry: Registry, now: datetime) -> None:
    """Delete old snapshots, and the records of killed processes."""
    registry.log.delete_old_snapshots(keep=_SNAPSHOTS)
    for hold in registry.holds.records():
        if hold.expires + _ENDED < now:
            registry.holds.delete(hold)
    registry.holds.delete_ended_collections(now)

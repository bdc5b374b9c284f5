"""Differences between two versions. Pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from brew_platform.registry.blobs import File
from brew_platform.registry.version import Version

__all__ = ["Difference", "FileDifference", "VersionDiff", "diff_versions"]


@dataclass(frozen=True, kw_only=True)
class FileDifference:
    """A file that only one version has, or that differs. The file is None in a version that lacks it."""

    path: str
    before: File | None
    after: File | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A value that differs. The value is None in a version that lacks it."""

    name: str  # path of nested mappings, with dots
    before: Any
    after: Any

    @property
    def change(self) -> float | None:
        """after - before; None if one of them is not a number."""
        values = (self.before, self.after)
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
            return None
        return float(self.after - self.before)


@dataclass(frozen=True, kw_only=True)
class VersionDiff:
    """The differences of the second version to the first. Equal files and values are left out."""

    before: int  # number of the first version
    after: int  # number of the second version
    same_files: int  # files that are equal
    files: list[FileDifference]
    signature: list[Difference]
    lineage: list[Difference]
    metrics: list[Difference]


def diff_versions(before: Version, after: Version) -> VersionDiff:
    """Compare files, signature, lineage and metrics of two versions."""
    first, second = ({file.path: file for file in version.files} for version in (before, after))
    files = [
        FileDifference(path=path, before=first.get(path), after=second.get(path))
        for path in sorted({*first, *second})
        if first.get(path) != second.get(path)
    ]
    return VersionDiff(
        before=before.number,
        after=after.number,
        same_files=len({*first, *second}) - len(files),
        files=files,
        signature=_differences(before.signature, after.signature),
        lineage=_differences(before.lineage, after.lineage),
        metrics=_differences(before.metrics, after.metrics),
    )


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    first, second = _flatten(before), _flatten(after)
    return [
        Difference(name=name, before=first.get(name), after=second.get(name))
        for name in [*first, *(name for name in second if name not in first)]
        if first.get(name) != second.get(name)
    ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat

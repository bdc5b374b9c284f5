"""One published version of a model or of a data set, and its manifest."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from brew_platform.errors import RegistryError, UserError
from brew_platform.registry.blobs import File
from brew_platform.registry.gates import Gate

__all__ = ["Version"]

_PLAIN = ("signature", "lineage", "metrics", "author", "time", "write_id")


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

    @classmethod
    def from_document(cls, number: int, document: Mapping[str, Any], *, model: str) -> "Version":
        """Read a version from its stored manifest.

        Args:
            number: Its number.
            document: The manifest.
            model: Name of the model, for messages.

        Raises:
            RegistryError: The manifest is damaged.
        """
        try:
            return cls(
                number=number,
                files=tuple(File(**file) for file in document["files"]),
                gates=tuple(Gate(**gate) for gate in document.get("gates", ())),  # earlier releases wrote none
                **{name: document[name] for name in _PLAIN},
            )
        except (KeyError, TypeError, AttributeError, UserError) as error:
            raise RegistryError(
                f"the manifest of version {number} of {model} is damaged: {error}. Restore its object from a "
                f"backup of the store, or serve another version."
            ) from error

    def document(self) -> dict[str, Any]:
        """Return the manifest: all fields but the number, which is in the key, and `write_id`, which the log adds."""
        return {
            "files": [asdict(file) for file in self.files],
            "signature": self.signature,
            "lineage": self.lineage,
            "metrics": self.metrics,
            "gates": [gate.document() for gate in self.gates],
            "author": self.author,
            "time": self.time,
        }

"""`lineage.json`: where an exported model comes from. Training writes it, and the registry keeps it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from brew_platform.errors import UserError
from brew_platform.files import replace_atomically
from brew_platform.registry.gates import Gate
from brew_platform.registry.model_digest import folder_digest

__all__ = ["LINEAGE_FILE", "Lineage", "parent_of"]

FORMAT_VERSION = 1
LINEAGE_FILE = "lineage.json"


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """The content of `lineage.json`, in the folder of an export."""

    parent: Mapping[str, Any] | None  # from `parent_of`; None: trained from scratch
    plan_hashes: Mapping[str, str]  # by stage: hash of the packing plan of its bins
    config_digest: str  # of the configuration of the training run
    commit: str | None  # git commit of the code
    job: str | None = None  # Ray's job id
    gates: list[Gate] = field(default_factory=list)  # of the recipe's release

    def write(self, folder: Path) -> None:
        """Write `lineage.json`."""
        content = {"format_version": FORMAT_VERSION, **self.document(), "gates": [g.document() for g in self.gates]}
        replace_atomically(folder / LINEAGE_FILE, json.dumps(content, indent=1) + "\n")

    def require_continued(self, earlier: "Lineage", run: Path, stages: Sequence[str]) -> None:
        """Refuse to continue a run that was trained from another model, or on other bins.

        Args:
            earlier: The lineage of the run when it was started.
            run: The folder of the run.
            stages: The stages that have been trained, the present one included.

        Raises:
            UserError: The parents or the bins differ.
        """
        before, after = ((item.parent or {}).get("digest") for item in (earlier, self))
        changed = [name for name in stages if earlier.plan_hashes.get(name) != self.plan_hashes.get(name)]
        if before != after:
            fault = (
                f"was started from the model with digest {str(before)[:12]}, but that of train.model.init_from is "
                f"{str(after)[:12]}"
            )
        elif changed:
            fault = f"was trained on other bins in stage {changed[0]} than bins.{changed[0]} names now"
        else:
            return
        raise UserError(
            f"{run} {fault}, so that its checkpoint would not be of the model that its lineage describes. Restore the "
            f"settings and files that it was started with, or choose a new run folder."
        )

    def document(self) -> dict[str, Any]:
        """The lineage as the registry keeps it: without the gates, which are a part of the version."""
        return {name: value for name, value in asdict(self).items() if name != "gates"}

    @staticmethod
    def read(folder: Path) -> "Lineage | None":
        """Read the lineage of an export; None if it has none.

        Raises:
            UserError: The file is damaged or of another release.
        """
        path = folder / LINEAGE_FILE
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text())
            version = content.pop("format_version")
            if version != FORMAT_VERSION:
                raise UserError(
                    f"{path} has format_version {version!r}, but this release reads {FORMAT_VERSION} only. Delete the "
                    f"file to publish without a lineage, or export the model again."
                )
            return Lineage(**{**content, "gates": [Gate(**gate) for gate in content["gates"]]})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is damaged ({error!r}). Delete it to publish without a lineage, or export the model again."
            ) from error


def parent_of(init_from: str | None, *, record: Path | None = None) -> dict[str, Any] | None:
    """Describe the model that training starts from.

    Args:
        init_from: Its folder; None: training starts from scratch.
        record: File that remembers the hashes of its files, so that a restart does not read them again.

    Returns:
        The name of its folder, the digest of its files, and its own lineage, which is null for a base model.

    Raises:
        UserError: There is no such folder.
    """
    if init_from is None:
        return None
    folder = Path(init_from)
    if not folder.is_dir():
        raise UserError(f"train.model.init_from is {init_from}, which is not a folder. Pass the folder of a model.")
    lineage = Lineage.read(folder)
    return {
        "folder": "/".join(folder.absolute().parts[-2:]),
        "digest": folder_digest(folder, record=record),
        "lineage": None if lineage is None else lineage.document(),
    }

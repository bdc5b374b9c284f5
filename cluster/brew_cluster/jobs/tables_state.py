"""What a build knows about the tables that it has written, so that a later build can continue with them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from brew_cluster.jobs.build_inputs import BuildInputs
from brew_data.privacy.report import Removals
from brew_data.sources.quarantine import Quarantine
from brew_data.split import Split
from brew_data.table_writer import WrittenTables
from brew_platform.files import replace_atomically

__all__ = ["TABLES_STATE", "TablesState"]

TABLES_STATE = "tables.json"  # in the folder of a build; it is written when the tables are complete and checked


@dataclass(frozen=True, kw_only=True)
class TablesState:
    """The tables of a build that passed all checks."""

    inputs: BuildInputs
    written: WrittenTables
    split: Split
    quarantine: Quarantine
    removed: Removals

    def write(self, folder: Path) -> None:
        """Write `tables.json`."""
        content = {
            "inputs": self.inputs.document(),
            "written": asdict(self.written),
            "split": asdict(self.split),
            "quarantine": self.quarantine.state(),
            "removed": self.removed,
        }
        replace_atomically(folder / TABLES_STATE, json.dumps(content))

    @staticmethod
    def read(folder: Path) -> "TablesState | None":
        """Read `tables.json`; None if the tables were not finished."""
        path = folder / TABLES_STATE
        if not path.is_file():
            return None
        content: dict[str, Any] = json.loads(path.read_text())
        return TablesState(
            inputs=BuildInputs.of_document(content["inputs"]),
            written=WrittenTables(**content["written"]),
            split=Split(**content["split"]),
            quarantine=Quarantine.of_state(content["quarantine"], folder / "quarantine"),
            removed=content["removed"],
        )

"""The quarantine: rows that a source leaves out because they break the schema, with the reason of each."""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brew_data.privacy.redaction import redact
from brew_platform.errors import DataError
from brew_platform.files import replace_atomically
from brew_platform.settings import Settings, Share

__all__ = ["Quarantine", "QuarantineConfig"]

ROWS_PER_WRITE = 1_000
EXAMPLES = 3  # of each reason that are kept for messages
LONGEST_DETAIL = 200  # characters of a value that are kept


@dataclass(frozen=True, kw_only=True)
class QuarantineConfig(Settings):
    """How many rows a source may leave out.

    Raises:
        ConfigError: `max_share` is not a share.
    """

    max_share: Share = 0.01  # share of a table's rows that may be quarantined, 0 to 1; more stop the build


class Quarantine:
    """Counts the rows that are left out, keeps examples, and writes each row to a file.

    Args:
        folder: Receives `<table>.jsonl`, one row per line: file, line, reason, values. None: rows are only counted.
        on_rows: Called with the number of rows that were read so far, of all tables.
        has_values: Whether values of rows are written and shown; otherwise only file, line and reason are.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        on_rows: Callable[[int], None] = lambda rows: None,
        has_values: bool = True,
    ) -> None:
        self.folder = folder
        self._on_rows, self._has_values = on_rows, has_values
        self.reasons: dict[str, Counter[str]] = {}  # by table
        self.examples: dict[tuple[str, str], list[str]] = {}  # by table and reason: file, line and cause
        self._pending: dict[str, list[str]] = {}
        self.rows: Counter[str] = Counter()  # rows read, quarantined ones included, by table

    def count_rows(self, table: str, rows: int) -> None:
        """Add to the number of rows that were read."""
        self.rows[table] += rows
        self._on_rows(self.rows.total())

    def add(
        self, table: str, *, file: str, line: int, reason: str, detail: str = "", values: Mapping[str, Any] | str
    ) -> None:
        """Leave a row out.

        Args:
            table: members, entities or interactions.
            file: The file of the row.
            line: Its line, from 1; of a Parquet file its row, from 1.
            reason: The kind of fault; rows are counted by it, so that it has no value of the row.
            detail: The value that is at fault; a long one is cut.
            values: The row as it was read; identifiers in its text are not written.
        """
        detail = detail[:LONGEST_DETAIL] if self._has_values else ""
        self.reasons.setdefault(table, Counter())[reason] += 1
        examples = self.examples.setdefault((table, reason), [])
        if len(examples) < EXAMPLES:
            examples.append(f"{file} line {line}{f': {detail}' if detail else ''}")
        if self.folder is not None:
            row: dict[str, Any] = {"file": file, "line": line, "reason": f"{reason}: {detail}" if detail else reason}
            if self._has_values:
                row["values"] = _redacted(values)
            lines = self._pending.setdefault(table, [])
            lines.append(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            if len(lines) >= ROWS_PER_WRITE:
                self.flush()

    def flush(self) -> None:
        """Write the rows that are still in memory."""
        for table, lines in self._pending.items():
            assert self.folder is not None
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / f"{table}.jsonl").open("a", encoding="utf-8", errors="backslashreplace") as target:
                target.writelines(lines)
        self._pending.clear()

    def remove_rows_of(self, ids: Collection[str]) -> None:
        """Remove the rows that name one of these ids from the files. They stay in the counts."""
        self.flush()
        if self.folder is None or not ids:
            return
        for path in sorted(self.folder.glob("*.jsonl")):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if not _names_any(json.loads(line), ids)]
            if len(kept) < len(lines):
                replace_atomically(path, "".join(kept))

    def total(self, table: str) -> int:
        """Return the number of rows of a table that were left out."""
        return sum(self.reasons.get(table, Counter()).values())

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of rows by table and reason, most frequent reasons first."""
        return {table: dict(reasons.most_common()) for table, reasons in self.reasons.items()}

    def state(self) -> dict[str, Any]:
        """Return all counts and examples as JSON, for `of_state`."""
        return {
            "reasons": self.reasons,
            "examples": [[table, reason, texts] for (table, reason), texts in self.examples.items()],
            "rows": self.rows,
        }

    @staticmethod
    def of_state(state: Mapping[str, Any], folder: Path | None = None) -> "Quarantine":
        """Return the quarantine that had a state; the rows in `folder` are those of it."""
        quarantine = Quarantine(folder)
        quarantine.reasons = {table: Counter(reasons) for table, reasons in state["reasons"].items()}
        quarantine.examples = {(table, reason): texts for table, reason, texts in state["examples"]}
        quarantine.rows = Counter(state["rows"])
        return quarantine

    def require_share(self, max_share: float) -> None:
        """Check that no table lost more than a share of its rows.

        Raises:
            DataError: One did; the message has the counts, the most frequent reason, and an example.
        """
        self.flush()
        for table, reasons in self.reasons.items():
            total, rows = self.total(table), max(1, self.rows[table])
            if total > max_share * rows:
                reason, count = reasons.most_common(1)[0]
                where = f" {self.folder / f'{table}.jsonl'} lists them." if self.folder is not None else ""
                raise DataError(
                    f"{total:,} of {rows:,} rows of {table} break the schema ({total / rows:.1%}), but "
                    f"quarantine.max_share is {max_share:.1%}. Most frequent ({count:,}): {reason}, e.g. "
                    f"{self.examples[table, reason][0]}.{where} Correct the files or the recipe, or raise "
                    f"quarantine.max_share."
                )


def _names_any(row: Mapping[str, Any], ids: Collection[str]) -> bool:
    """Whether a quarantined row, or its reason, has one of the ids as a value."""
    values = row.get("values", {})
    texts = re.split(r"[,;|\t]", values) if isinstance(values, str) else map(str, values.values())
    return any(text.strip(" \"'") in ids for text in (*texts, str(row["reason"]).rpartition(": ")[2]))


def _redacted(values: Mapping[str, Any] | str) -> dict[str, Any] | str:
    if isinstance(values, str):
        return redact(values)
    return {name: redact(value) if isinstance(value, str) else value for name, value in values.items()}

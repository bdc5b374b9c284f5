"""Files of preference pairs: the format, and the check of every row.

A row says that to `prompt` the answer `chosen` is better than the answer `rejected` (the column names are TRL's):

    {"prompt": "Summarise this post: ...", "chosen": "A nurse ...", "rejected": "Posts are ..."}

`instruction` and `profile` may be added: what opens the chat, and the member that it is about (docs/preferences.md).
Holds reading JSONL and Parquet, and what is refused.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from brew_platform.errors import DataError, UserError

__all__ = ["Preference", "read_preferences"]

REQUIRED = ("prompt", "chosen", "rejected")
OPTIONAL = ("instruction", "profile")


@dataclass(frozen=True, kw_only=True)
class Preference:
    """One row: text as it was given."""

    prompt: str
    chosen: str
    rejected: str
    instruction: str = ""
    profile: str = ""
    origin: str  # file and line (JSONL) or row (Parquet), counted from 1; for messages


def read_preferences(path: Path) -> Iterator[Preference]:
    """The rows of a file, one at a time; other columns than those of `Preference` are ignored.

    Args:
        path: `.jsonl` (one JSON object a line, UTF-8; empty lines are skipped) or `.parquet` (columns of strings).

    Raises:
        UserError: there is no such file, or it is of another kind.
        DataError: a line or row cannot be read, lacks a column or its text, or prefers an answer to itself; the message
            names it.
    """
    readers = {".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    if path.suffix not in readers:
        raise UserError(f"{path} is neither .jsonl nor .parquet: preference pairs are read from these two.")
    if not path.is_file():
        raise UserError(f"{path} is not a file: pass a file of preference pairs.")
    return (_preference(values, origin) for values, origin in readers[path.suffix](path))


def _preference(values: Mapping[str, object], origin: str) -> Preference:
    _require_columns(values, origin)
    texts = {name: _text(values.get(name), name, origin) for name in (*REQUIRED, *OPTIONAL)}
    for name in REQUIRED:
        if not texts[name].strip():
            raise DataError(f"{origin}: {name} is empty; give text, or leave the row out.")
    if texts["chosen"] == texts["rejected"]:
        raise DataError(f"{origin}: chosen and rejected are the same text, so nothing is preferred; leave the row out.")
    return Preference(**texts, origin=origin)


def _require_columns(names: Iterable[str], origin: str) -> None:
    given = list(names)
    missing = [name for name in REQUIRED if name not in given]
    if missing:
        raise DataError(
            f"{origin} lacks {', '.join(missing)} (it has {', '.join(given) or 'nothing'}): a preference pair needs "
            f"{', '.join(REQUIRED)}."
        )


def _text(value: object, name: str, origin: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{origin}: {name} is of type {type(value).__name__}, but must be text; conversations (lists of messages) "
            f"are not read: write them as one text."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a character, e.g. "\ud83d"
        raise DataError(f"{origin}: {name} is not valid Unicode ({error}); write it again as UTF-8.") from error
    return value


def _jsonl_rows(path: Path) -> Iterator[tuple[Mapping[str, object], str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            origin = f"{path}, line {number}"
            try:
                values = json.loads(line.decode())
            except UnicodeDecodeError as error:
                raise DataError(f"{origin} is no UTF-8 ({error}); write the file as UTF-8.") from error
            except (ValueError, RecursionError) as error:
                raise DataError(f"{origin} is not JSON ({error}); write one JSON object a line.") from error
            if not isinstance(values, dict):
                raise DataError(f"{origin} is a JSON {type(values).__name__}; write one JSON object a line.")
            yield values, origin


def _parquet_rows(path: Path) -> Iterator[tuple[Mapping[str, object], str]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            _require_columns(file.schema_arrow.names, str(path))
            names = [name for name in (*REQUIRED, *OPTIONAL) if name in file.schema_arrow.names]
            for batch in file.iter_batches(columns=names):
                for row in range(batch.num_rows):
                    number += 1
                    yield {name: batch[name][row].as_py() for name in names}, f"{path}, row {number}"
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, row {number} is no UTF-8 ({error}); write the column as UTF-8.") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); write it again.") from error

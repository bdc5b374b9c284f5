"""Reads preference pairs from JSONL and Parquet files, and checks every row.

A row states that `chosen` is a better answer to `prompt` than `rejected`. The columns have the names that TRL uses:

    {"prompt": "Summarise this post: ...", "chosen": "A nurse ...", "rejected": "Posts are ..."}

The columns `instruction` (the system message) and `profile` (of the member) are optional; see docs/preferences.md.
`chosen` and `rejected` can also be lists of messages, as in UltraFeedback: a question and its answer.
"""

import codecs
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from brew_data.sources.formats.json_lines import load_json
from brew_platform.errors import DataError, UserError

__all__ = ["Preference", "read_preferences"]

REQUIRED = ("prompt", "chosen", "rejected")
OPTIONAL = ("instruction", "profile")


@dataclass(frozen=True, kw_only=True)
class Preference:
    """One row of a file, with its text unchanged."""

    prompt: str
    chosen: str
    rejected: str
    instruction: str = ""
    profile: str = ""
    origin: str  # file and line (JSONL) or row (Parquet), counted from 1; for error messages


def read_preferences(path: Path) -> Iterator[Preference]:
    """Read the rows of a file one at a time. Columns other than those of `Preference` are ignored.

    Args:
        path: `.jsonl` (one JSON object per line, UTF-8; empty lines are skipped) or `.parquet` (columns of strings).

    Returns:
        An iterator over the rows, in the order of the file.

    Raises:
        UserError: The file does not exist, or has another suffix.
        DataError: A row cannot be read, a required column is missing or empty, or both answers are the same. The
            message names the row. Errors of rows are raised during iteration.
    """
    readers = {".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    if path.suffix not in readers:
        raise UserError(f"{path} is neither .jsonl nor .parquet. Convert it to one of these formats.")
    if not path.is_file():
        raise UserError(f"{path} is not a file. Pass a file of preference pairs.")
    return (_preference(values, origin) for values, origin in readers[path.suffix](path))


def _preference(values: Mapping[str, object], origin: str) -> Preference:
    _require_columns(values, origin)
    if isinstance(values.get("chosen"), list):
        values = {**values, **_of_messages(values, origin)}
    texts = {name: _text(values.get(name), name, origin) for name in (*REQUIRED, *OPTIONAL)}
    for name in REQUIRED:
        if not texts[name].strip():
            raise DataError(f"{origin}: {name} is empty. Add text, or remove the row.")
    if texts["chosen"] == texts["rejected"]:
        raise DataError(f"{origin}: chosen and rejected are the same text, so nothing is preferred. Remove the row.")
    return Preference(**texts, origin=origin)


def _of_messages(values: Mapping[str, object], origin: str) -> dict[str, str]:
    """Return the texts of two lists of messages that differ in their last message, which is the answer."""
    chosen, rejected = (_messages(values.get(name), name, origin) for name in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise DataError(
            f"{origin}: chosen and rejected have different messages before the answer, so they are not answers to the "
            f"same question. Remove the row."
        )
    *system, (_, question), (_, answer) = chosen
    texts = {"prompt": question, "chosen": answer, "rejected": rejected[-1][1]}
    return texts | ({"instruction": system[0][1]} if system else {})


def _messages(value: object, name: str, origin: str) -> list[tuple[str, str]]:
    """Return roles and texts: optionally a system message, then a question and an answer."""
    messages = value if isinstance(value, list) else []
    found = [(str(item.get("role")), item.get("content")) for item in messages if isinstance(item, dict)]
    roles = [role for role, _ in found]
    if len(found) < len(messages) or roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        raise DataError(
            f"{origin}: {name} is a list of messages with the roles {', '.join(roles) or 'none'}, but must have user "
            f"and assistant, and can have system before them. Longer conversations are not supported; remove the row."
        )
    return [(role, _text(content, f"a message of {name}", origin)) for role, content in found]


def _require_columns(names: Iterable[str], origin: str) -> None:
    found = list(names)
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        raise DataError(
            f"{origin} lacks {', '.join(missing)} (it has {', '.join(found) or 'nothing'}). A preference pair needs "
            f"{', '.join(REQUIRED)}; add the missing columns."
        )


def _text(value: object, name: str, origin: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{origin}: {name} is of type {type(value).__name__}, but must be text. Only chosen and "
            f"rejected can be lists of messages, both of them."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a character, e.g. "\ud83d"
        raise DataError(f"{origin}: {name} is not valid Unicode ({error}). Write it as UTF-8.") from error
    return value


def _jsonl_rows(path: Path) -> Iterator[tuple[Mapping[str, object], str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            origin = f"{path}, line {number}"
            try:
                values = load_json(line.removeprefix(codecs.BOM_UTF8).decode())
            except UnicodeDecodeError as error:
                raise DataError(f"{origin} is not UTF-8 ({error}). Write the file as UTF-8.") from error
            except (ValueError, RecursionError) as error:
                raise DataError(f"{origin} is not JSON ({error}). Write one JSON object per line.") from error
            if not isinstance(values, dict):
                raise DataError(
                    f"{origin} is a JSON {type(values).__name__}, not an object. Write one JSON object per line."
                )
            yield values, origin


def _parquet_rows(path: Path) -> Iterator[tuple[Mapping[str, object], str]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            _require_columns(file.schema_arrow.names, str(path))
            if repeated := [name for name in REQUIRED + OPTIONAL if file.schema_arrow.names.count(name) > 1]:
                raise DataError(f"{path} has the column {repeated[0]} more than once. Rename the copies.")
            names = [name for name in (*REQUIRED, *OPTIONAL) if name in file.schema_arrow.names]
            for batch in file.iter_batches(columns=names):
                for row in range(batch.num_rows):
                    number += 1
                    yield {name: batch[name][row].as_py() for name in names}, f"{path}, row {number}"
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, row {number} is not UTF-8 ({error}). Write the column as UTF-8.") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}). Write it again.") from error

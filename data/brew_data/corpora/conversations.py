"""Reads conversations in the messages format from JSONL and Parquet files, and renders them as training documents.

    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello! How can I help?"}]}

Other columns are ignored, so the files of UltraChat and of most other conversation data can be read as they are. A
message of role member is a profile; it stands where the prompts of tasks have theirs.
"""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from brew_data.privacy.redaction import redact
from brew_data.prompts.chat import head_ids, question_ids
from brew_data.prompts.compiler import Document, PromptCompiler
from brew_data.sources.formats.json_lines import load_json
from brew_data.sources.quarantine import Quarantine
from brew_platform.errors import DataError, UserError

__all__ = ["Conversation", "conversation_document", "conversation_files", "read_conversations"]

_SYSTEM = ("system", "developer")
_ROWS_PER_BATCH = 1_000
_SUFFIXES = (".jsonl", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A conversation.

    Args:
        instruction: The system messages; empty without any.
        turns: Questions and their answers, at least one.
        line: The line (JSONL) or row (Parquet) of the file, from 1.
        profile: The message of role member; empty without one.
    """

    instruction: str
    turns: tuple[tuple[str, str], ...]
    line: int
    profile: str = ""


class _Fault(Exception):
    """Why a row is not a conversation: the kind of fault, and the value."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class _Row(NamedTuple):
    line: int
    values: Any  # the row, or its text if it cannot be parsed
    fault: _Fault | None = None


def conversation_files(path: Path) -> list[Path]:
    """Return the files of conversations: `path` itself, or those in the folder, by name.

    Args:
        path: A file `.jsonl` (UTF-8, one object per line) or `.parquet`, or a folder of such files.

    Raises:
        UserError: There are none.
    """
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES) if path.is_dir() else [path]
    if not files or not all(file.is_file() and file.suffix in _SUFFIXES for file in files):
        raise UserError(
            f"{path} is neither a .jsonl or .parquet file of conversations nor a folder of such files. Correct the "
            f"path, or convert the files."
        )
    return files


def read_conversations(path: Path, quarantine: Quarantine, *, table: str) -> Iterator[Conversation]:
    """Read the conversations of a file. Identifiers of persons are removed from their text.

    Messages of role system or developer come first, then perhaps one of role member. Then user and assistant alternate;
    the user begins. Questions at the end without an answer are left out. Rows that are different go to the quarantine.

    Args:
        path: From `conversation_files`.
        quarantine: Receives and counts the rows.
        table: The name of the rows in the quarantine.

    Raises:
        DataError: The file cannot be read, or is Parquet without the column `messages`.
    """
    for row in _jsonl_rows(path) if path.suffix == ".jsonl" else _parquet_rows(path):
        quarantine.count_rows(table, 1)
        try:
            if row.fault is not None:
                raise row.fault
            yield _conversation(row)
        except _Fault as fault:
            values = row.values if isinstance(row.values, str) else {"messages": str(row.values)}
            quarantine.add(
                table, file=path.name, line=row.line, reason=fault.reason, detail=fault.detail, values=values
            )
    quarantine.flush()


def conversation_document(conversation: Conversation, compiler: PromptCompiler) -> Document | None:
    """Render a conversation in the layout of a chat (`brew_data.prompts.chat`).

    Trained are the answers, and the control token after each: there the model must stop. If the conversation exceeds
    the context, its last turns are left out. The texts are encoded without control tokens, so they cannot forge a turn.

    Args:
        conversation: The conversation.
        compiler: Provides the tokenizer and the length of the context.

    Returns:
        The document; None if the first turn does not fit.
    """
    tokenizer = compiler.tokenizer
    ids = list(head_ids(tokenizer, *map(tokenizer.encode, (conversation.instruction, conversation.profile))))
    roles = [0] * len(ids)
    shown = 0
    for question, answer in conversation.turns:
        question_part = question_ids(tokenizer, tokenizer.encode(question))
        answer_part = tokenizer.encode(answer)
        if len(ids) + len(question_part) + len(answer_part) + 1 > compiler.format.context_length:
            break
        ids += (*question_part, *answer_part)
        roles += (int(shown > 0), *[0] * (len(question_part) - 1), *[1] * len(answer_part))
        shown += 1
    if not shown:
        return None
    return Document(ids=(*ids, tokenizer.end), roles=(*roles, 1), turns_dropped=len(conversation.turns) - shown)


def _conversation(row: _Row) -> Conversation:
    """Check a row.

    Raises:
        _Fault: It is not a conversation.
    """
    messages = row.values.get("messages") if isinstance(row.values, dict) else None
    if not isinstance(messages, list) or not messages:
        raise _Fault("messages is not a list of messages")
    pairs = [_message(message) for message in messages]
    first = next((i for i, (role, _) in enumerate(pairs) if role not in _SYSTEM), len(pairs))
    profiles = [text for role, text in pairs[first : first + 1] if role == "member"]
    later = pairs[first + len(profiles) :]
    for place, (role, _) in enumerate(later):
        if role != ("user", "assistant")[place % 2]:
            raise _Fault("the roles do not alternate between user and assistant", role)
    turns = tuple((later[i][1], later[i + 1][1]) for i in range(0, len(later) - 1, 2))
    if not turns:
        raise _Fault("there is no answer")
    instruction = "\n".join(text for _, text in pairs[:first])
    return Conversation(instruction=instruction, profile="".join(profiles), turns=turns, line=row.line)


def _message(message: object) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise _Fault("a message is not an object", type(message).__name__)
    role, content = message.get("role"), message.get("content")
    if role not in (*_SYSTEM, "member", "user", "assistant"):
        raise _Fault("a message has an unknown role", str(role))
    if not isinstance(content, str) or not content.strip():
        raise _Fault("a message has no text")
    return str(role), _without_identifiers(content)


def _without_identifiers(text: str) -> str:
    """Remove identifiers; lines without any keep their spaces."""
    lines = []
    for line in text.split("\n"):
        plain = " ".join(line.split())
        cleaned = redact(plain)
        lines.append(line if cleaned == plain else cleaned)
    return "\n".join(lines)


def _jsonl_rows(path: Path) -> Iterator[_Row]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                text = line.removeprefix(codecs.BOM_UTF8).decode(errors="replace")
                try:
                    line.decode()
                    values = load_json(text)
                except UnicodeDecodeError as error:
                    yield _Row(number, text, _Fault("the line is not UTF-8", str(error)))
                except (ValueError, RecursionError) as error:
                    yield _Row(number, text, _Fault("the line is not valid JSON", str(error)))
                else:
                    yield _Row(number, values)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). Repair the disk, or copy the file again.") from error


def _parquet_rows(path: Path) -> Iterator[_Row]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names: Sequence[str] = file.schema_arrow.names
            if "messages" not in names:
                raise DataError(
                    f"{path} lacks the column messages (it has {', '.join(names) or 'none'}). Rename the column with "
                    f"the lists of messages."
                )
            for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=["messages"]):
                for messages in batch.column("messages"):
                    number += 1
                    try:
                        yield _Row(number, {"messages": messages.as_py()})
                    except UnicodeDecodeError as error:
                        yield _Row(number, "", _Fault("a message is not UTF-8", str(error)))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}). Write it again.") from error

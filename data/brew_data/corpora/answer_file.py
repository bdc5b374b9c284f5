"""Keeps answers and their scores in a file, each as soon as it is there, so that a run that was killed continues.

The file has one JSON object per line. The first one has the settings that answers depend on; then answers
(`{"id", "seed", "text", "is_whole"}`) and scores of a model (`{"id", "seed", "score"}`) follow in any order.
"""

import fcntl
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from brew_data.corpora.chat_model import Reply
from brew_platform.errors import DataError, UserError

__all__ = ["AnswerFile"]

FORMAT_VERSION = 1

Key = tuple[str, int]  # id of an instruction, and seed of an answer to it


class AnswerFile:
    """The answers and scores of one run or of several that continue each other. `open` creates it."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._answers: dict[Key, Reply] = {}
        self._scores: dict[Key, float] = {}

    @staticmethod
    @contextmanager
    def open(path: Path, settings: Mapping[str, object]) -> Iterator["AnswerFile"]:
        """Open the file, or create it, and lock it.

        Args:
            path: The file. A last line that was not finished is removed.
            settings: Everything that the answers depend on.

        Raises:
            UserError: Another run writes the file, or it has answers of other settings.
            DataError: The file is damaged.
        """
        with path.open("ab+", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another run is writing {path}. Wait for it, or choose another folder.") from None
            answers = AnswerFile(file)
            answers._read(path, settings)
            yield answers

    def answer(self, id_: str, seed: int) -> Reply | None:
        """Return an answer to an instruction; None if there is none yet."""
        return self._answers.get((id_, seed))

    def score(self, id_: str, seed: int) -> float | None:
        """Return the score that a model gave an answer; None if there is none yet."""
        return self._scores.get((id_, seed))

    def add_answer(self, id_: str, seed: int, answer: Reply) -> None:
        """Write an answer."""
        self._write({"id": id_, "seed": seed, **answer._asdict()})

    def add_score(self, id_: str, seed: int, score: float) -> None:
        """Write the score of an answer."""
        self._write({"id": id_, "seed": seed, "score": score})

    def _write(self, row: Mapping[str, object]) -> None:
        self._file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())

    def _read(self, path: Path, settings: Mapping[str, object]) -> None:
        self._file.seek(0)
        content = self._file.readall()
        end = content.rfind(b"\n") + 1
        self._file.truncate(end)
        rows = [_row(line, path, number) for number, line in enumerate(content[:end].splitlines(), 1)]
        if not rows:
            self._write({"format_version": FORMAT_VERSION, "settings": settings})
            return
        _require_settings(rows[0], settings, path)
        for number, row in enumerate(rows[1:], 2):
            try:
                key = str(row["id"]), int(row["seed"])
                if "score" in row:
                    self._scores[key] = float(row["score"])
                else:
                    self._answers[key] = Reply(str(row["text"]), bool(row["is_whole"]))
            except (LookupError, TypeError, ValueError) as error:
                raise DataError(_damage(path, number, error)) from error


def _row(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise TypeError("it is not an object")
    except (ValueError, TypeError) as error:
        raise DataError(_damage(path, number, error)) from error
    return row


def _damage(path: Path, number: int, error: Exception) -> str:
    return f"{path}, line {number} is damaged ({error!r}). Remove that line, and run the same command again."


def _require_settings(row: Mapping[str, Any], settings: Mapping[str, object], path: Path) -> None:
    """Check that the file has answers of these settings."""
    before = row.get("settings")
    if row.get("format_version") != FORMAT_VERSION or not isinstance(before, dict):
        raise DataError(f"{path} is not a file of answers of this release. Choose another folder, or remove it.")
    names = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
    if names:
        changed = ", ".join(f"{name} {before.get(name)!r}" for name in names)
        raise UserError(
            f"{path} has answers of other settings ({changed}). Use these settings, or choose another folder."
        )

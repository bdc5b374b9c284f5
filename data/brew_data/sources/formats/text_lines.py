"""The numbered lines of a text file."""

import codecs
import io
import itertools
from collections.abc import Iterator
from typing import BinaryIO

from brew_data.sources.formats.base import TEXT_LIMIT, BadRow
from brew_platform.errors import DataError

__all__ = ["NumberedLines"]

_REMEDIES = {  # by the first bytes of a file that is not text in its encoding
    codecs.BOM_UTF16_LE: "set `encoding` to that of the file (utf-16)",
    codecs.BOM_UTF16_BE: "set `encoding` to that of the file (utf-16)",
    b"\x1f\x8b": "the file is compressed by gzip; name it .gz",
    b"PK\x03\x04": "the file is a ZIP archive or an Excel sheet; extract or export the table",
    b"PAR1": "the file is Parquet; set `format` to parquet",
}


class NumberedLines:
    """The decoded lines of a stream. Lines that cannot be decoded are left out and appended to `bad`.

    As for pyarrow, a line ends with LF, CRLF or CR.
    """

    def __init__(self, stream: BinaryIO, encoding: str, name: str) -> None:
        self.number = 0  # of the last line that was read
        self.start = 0  # of the first line since it was set to 0
        self.bad: list[BadRow] = []
        self._encoding, self._name = encoding, name
        self._is_ascii_compatible = "\n".encode(encoding) == b"\n"
        self._lines: Iterator[bytes | str] = (
            _split_lines(stream)
            if self._is_ascii_compatible
            else io.TextIOWrapper(stream, encoding=encoding, newline="")
        )

    def __iter__(self) -> Iterator[str]:
        return self

    def is_at_end(self) -> bool:
        """Whether no line is left; the next line is kept for the reader."""
        line = next(self._lines, None)
        if line is not None:
            self._lines = itertools.chain([line], self._lines)
        return line is None

    def __next__(self) -> str:
        while True:
            try:
                line = next(self._lines)
                self.number += 1
                text = line if isinstance(line, str) else line.decode(self._encoding)
                self.start = self.start or self.number
                return text.removeprefix("\ufeff") if self.number == 1 else text
            except UnicodeError as error:
                if not isinstance(error, UnicodeDecodeError) or not self._is_ascii_compatible:
                    raise DataError(
                        f"{self._name}: the text after line {self.number} is not {self._encoding} ({error}). It is cut "
                        f"short or damaged, or `encoding` is not that of the file."
                    ) from error
                detail = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
                raw = error.object[:TEXT_LIMIT].decode("latin-1").rstrip("\r\n")
                remedy = "set `encoding` to that of the file (e.g. latin-1)"
                if self.number == 1:
                    remedy = next((r for start, r in _REMEDIES.items() if error.object.startswith(start)), remedy)
                reason = f"the line is not {self._encoding} text; {remedy}"
                self.bad.append(BadRow(self.number, reason, detail, raw))


def _split_lines(stream: BinaryIO) -> Iterator[bytes]:
    for line in stream:
        yield from (line.splitlines(keepends=True) if b"\r" in line else (line,))

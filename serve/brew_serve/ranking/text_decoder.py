"""Decodes generated tokens to text piece by piece, and ends the text at a stop string."""

import codecs
from collections.abc import Sequence

from brew_data.prompts.tokenizer import Tokenizer

__all__ = ["TextDecoder"]


class TextDecoder:
    """The text of one continuation.

    A piece ends with a whole character, and not with the start of a stop string that the next tokens could complete.
    Bytes that are not UTF-8 become U+FFFD.

    Args:
        tokenizer: Of the model that generates.
        stop: Strings that end the text; the first one to be complete is not part of it. None of them is empty.
        strip_space: Remove the space that the tokenizer puts before the first word of every text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, strip_space: bool = False) -> None:
        self.characters = 0  # decoded, including those that are held back
        self.stopped = False  # by a stop string; the text is complete
        self._tokenizer, self._stop = tokenizer, stop
        self._strip_space = strip_space and _adds_space(tokenizer)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def push(self, id_: int) -> str:
        """Add a token, and return the text that is complete now, which can be empty."""
        return self._add(self._utf8.decode(self._tokenizer.token_bytes(id_)))

    def finish(self) -> str:
        """Return the rest of the text; no token follows."""
        text = self._add(self._utf8.decode(b"", True)) + self._held
        self._held = ""
        return text

    def _add(self, text: str) -> str:
        if text and self._strip_space:
            text, self._strip_space = text.removeprefix(" "), False
        self.characters += len(text)
        text = self._held + text
        ends = [end for end in map(text.find, self._stop) if end >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        self._held = text[len(text) - max((_overlap(text, stop) for stop in self._stop), default=0) :]
        return text[: len(text) - len(self._held)]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that `stop` begins with."""
    return next(n for n in range(min(len(text), len(stop) - 1), -1, -1) if stop.startswith(text[len(text) - n :]))


def _adds_space(tokenizer: Tokenizer) -> bool:
    first, *_ = tokenizer.encode("a", cached=False)
    return tokenizer.token_bytes(first).startswith(b" ")

"""The console of the commands: it prints text from outside as it is, and survives a pipe that closes."""

import os
import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text

__all__ = ["PlainConsole", "escape_controls"]

_ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode categories: controls, format characters, surrogates, separators
_JOINERS = "\u200c\u200d"  # format characters that words of some scripts, and emoji, consist of


def escape_controls(text: str, encoding: str = "utf-8") -> str:
    r"""Replace the characters that a terminal would act on, or cannot show, by their Python escapes.

    These are control characters (`\n` and `\x1b` too), characters that change the direction of text or are invisible,
    half surrogates, and what the encoding lacks.

    Args:
        text: Any text.
        encoding: Encoding of the output.

    Returns:
        One line that the output can encode.
    """
    if not text.isprintable():
        text = "".join(
            character.encode("unicode_escape").decode()
            if unicodedata.category(character) in _ESCAPED and character not in _JOINERS
            else character
            for character in text
        )
    return text.encode(encoding, "backslashreplace").decode(encoding)


class PlainConsole(Console):
    """Prints every string literally: no markup, no emoji codes, no highlighting, and controls escaped.

    This holds for printed strings and for strings in tables (titles, headings, cells). A printed string is one line,
    which is not wrapped. If the pipe closes (`| head`), the console becomes quiet; Rich's own would end the process.

    Args:
        options: Of rich's Console, such as `stderr` and `width`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def print(self, *objects: Any, soft_wrap: bool | None = None, **options: Any) -> None:
        """Print strings on one line, or a table."""
        if soft_wrap is None and all(isinstance(item, str) for item in objects):
            soft_wrap = True
        super().print(*objects, soft_wrap=soft_wrap, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text as rich prints it; called for every string, also inside tables."""
        options |= {"markup": False, "emoji": False, "highlight": False}
        return super().render_str(escape_controls(text, self.encoding), **options)

    def on_broken_pipe(self) -> None:
        """Become quiet."""
        self.quiet = True
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self.file.fileno())
        os.close(devnull)

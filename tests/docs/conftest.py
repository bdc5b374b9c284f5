"""A fixture that builds the example files of a documentation page."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED_BLOCK = re.compile(r"^`(?P<path>[^`\n]+)`:\n\n?```[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def page_files() -> Callable[[str | Path, Path], Path]:
    """Return a function that writes the named code blocks of a page into a folder.

    A block is named by the line before it: a relative path in backticks and a colon. One empty line may follow it.
    """

    def write(page: str | Path, folder: Path) -> Path:
        """Write every named block of `page`, a path relative to the repository, under `folder`, and return `folder`."""
        blocks = list(NAMED_BLOCK.finditer((ROOT / page).read_text()))
        assert blocks, f"{page} names no code block: write `path/of/the/file`: on the line before a block"
        for block in blocks:
            file = folder / block["path"]
            assert file.resolve().is_relative_to(folder.resolve()), f"{page}: {block['path']} leaves the folder"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block["text"])
        return folder

    return write

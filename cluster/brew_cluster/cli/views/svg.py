"""The parts of SVG images that the plots share."""

from collections.abc import Iterable
from xml.sax.saxutils import escape

from brew_platform.console.plain_console import escape_controls

__all__ = ["WIDTH", "svg_document", "svg_text"]

WIDTH = 760  # pixels of every plot


def svg_document(parts: Iterable[str], *, height: float) -> str:
    """Return an image of `WIDTH` pixels with a white background.

    Args:
        parts: Elements; empty strings are left out.
        height: Pixels.
    """
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">'
    )
    background = f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    return "\n".join([head, background, *filter(None, parts), "</svg>"]) + "\n"


def svg_text(content: str, x: float | str, y: float | str, *, anchor: str = "start", colour: str = "#444") -> str:
    """Return a text; control characters, which XML cannot contain, are escaped as the console does."""
    shown = escape(escape_controls(content))
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{shown}</text>'

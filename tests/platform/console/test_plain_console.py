"""The console prints text from outside as it is: no markup, no emoji codes, no control characters."""

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from brew_platform.console.plain_console import PlainConsole, escape_controls


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("job [remote] [/] :smile: 100% \\n", "job [remote] [/] :smile: 100% \\n"),
        ("Zoë 職人 👩\u200d🔧 क\u200cष\u00a0x", "Zoë 職人 👩\u200d🔧 क\u200cष\u00a0x"),
        ("\x1b[2Ja\x07\r\n\tb\x9b1m", r"\x1b[2Ja\x07\r\n\tb\x9b1m"),
        ("a\u202eb\u2066c\u2028d\ufeffe\ud800", r"a\u202eb\u2066c\u2028d\ufeffe\ud800"),
    ],
)
def test_only_what_a_terminal_would_act_on_is_escaped(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


@given(st.text(st.characters(), max_size=40), st.sampled_from(["utf-8", "ascii", "latin-1"]))
def test_any_text_is_one_line_that_the_output_can_encode(text: str, encoding: str) -> None:
    shown = escape_controls(text, encoding)
    shown.encode(encoding)
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(character) == "Cc" for character in shown)
    assert escape_controls(shown, encoding) == shown


def test_strings_are_literal_wherever_they_are_printed() -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, width=60, force_terminal=True, color_system=None)
    hostile = "[red]x[/] :smile: \x1b[2J\n"
    shown = r"[red]x[/] :smile: \x1b[2J\n"
    console.print(hostile)
    console.print("label", hostile, style="red")
    table = Table(hostile, title=hostile)
    table.add_row(hostile)
    console.print(table)
    console.print("x" * 200)
    lines = out.getvalue().splitlines()
    assert lines[0] == shown
    assert lines[1] == f"label {shown}"
    assert "\n".join(lines[2:-1]).count(shown) == 3
    assert lines[-1] == "x" * 200  # not wrapped


def test_an_output_that_cannot_show_a_character_gets_its_escape() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", write_through=True)  # closes `raw` when it is collected
    PlainConsole(file=file).print("café \ud800")
    assert raw.getvalue() == b"caf\\xe9 \\ud800\n"

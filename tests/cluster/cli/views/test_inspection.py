"""A document is printed with its figures, its tokens, and what was cut."""

import io

from brew_cluster.cli.views.inspection import show_inspection
from brew_cluster.jobs.data_inspect import inspect_member
from brew_data.data_folder import DataFolder
from brew_platform.console.plain_console import PlainConsole


def printed(data: DataFolder, task: str | None = None, **options: bool | str) -> list[str]:
    out = io.StringIO()
    console = PlainConsole(file=out, width=60, **options)
    for inspection in inspect_member(data, "ada", task=task):
        show_inspection(console, inspection)
    return out.getvalue().splitlines()


def test_tokens_are_separated_and_those_with_loss_stand_in_brackets(built_folder: DataFolder) -> None:
    first, *lines = printed(built_folder)
    assert first.startswith("training document 1 of 1 of member ada: ")
    assert " of 256 tokens, " in first
    parts = [(line[:14].strip(), line[14:].replace("|", "")) for line in lines if line[:1].strip()]
    assert parts == [
        ("instruction", "<system>Predict: bought, viewed only."),
        ("profile", "<member>Berlin\\n"),
        ("turn 1", "<user>product\\nLamp\\n<assistant>[viewed only]"),
        ("turn 2", "<user>product\\nOak chair\\n<assistant>[bought]"),
        ("turn 3", "<user>product\\nLamp\\n<assistant>[bought]<end>"),
    ]
    assert lines[3] == f"{'':14}whole history, task buy: viewed on shop, product, 1970-01-01T00:00:00+00:00"


def test_the_prompt_of_a_task_says_why_a_turn_is_shown_and_what_was_cut(built_folder: DataFolder) -> None:
    lines = printed(built_folder, "buy")
    assert "left out: 1 interaction: on a surface that the policy does not show" in lines
    reason = lines.index(f"{'':14}chronological, choice 1: viewed on shop, product, 1970-01-01T00:00:04+00:00")
    assert lines[reason + 1].strip().startswith("cut: ")
    assert lines[reason + 2].strip().startswith(r"full text: product\nSofa of soft red velvet")


def test_a_terminal_shows_loss_in_green(built_folder: DataFolder) -> None:
    lines = printed(built_folder, force_terminal=True, color_system="standard")
    assert sum("\x1b[1;32m[" in line for line in lines) == 3

"""The documents tell the truth: every command in them parses, every file that they name exists."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer

from brew_cluster.cli.main import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    found: list[str] = []
    for document in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", document.read_text(), re.DOTALL):
            found += [line.split(" #")[0].strip() for line in block.splitlines() if line.strip()]
        found += re.findall(r"`((?:brew360|make|python -m) [^`]+)`", document.read_text())
    return sorted(set(found))


@pytest.mark.parametrize("command", commands())
def test_every_documented_command_parses(command: str) -> None:
    words = shlex.split(re.split(r" [<>] ", command)[0])
    if words[0] == "brew360":
        group = typer.main.get_command(app)
        while words[1:] and words[1] in getattr(group, "commands", {}):
            group, words = group.commands[words[1]], words[1:]
        if words[1:] and "--help" not in words:  # a bare name only mentions the command
            group.make_context("brew360", words[1:], resilient_parsing=False)
    elif words[0] == "curl":
        assert command in (ROOT / "docs/clients.md").read_text()  # tests/serve/test_service_commands.py sends them
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2])
    else:
        pytest.fail(f"no test knows how to check {command!r}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_and_named_file_exists(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    files = [name for name in re.findall(r"`([\w./-]+\.(?:py|yaml|txt|md))`", text) if "/" in name]
    packages = ["", "platform/brew_platform", "data/brew_data", "train/brew_train", "serve/brew_serve", "tests"]
    for name in links:
        assert (document.parent / name).exists(), name
    for name in files:
        name = re.sub(r"^brew_(\w+)/", r"\1/brew_\1/", name)
        assert any((ROOT / folder / name).exists() for folder in packages), name

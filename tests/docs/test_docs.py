"""Every documented command parses, every link and named file exists, and the wording follows our rules."""

import ast
import importlib.util
import io
import re
import shlex
import subprocess
import tokenize
from pathlib import Path

import pytest
import typer

from brew_cluster.cli.main import app

ROOT = Path(__file__).parents[2]
TOP_LEVEL = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = [*(ROOT / name for name in TOP_LEVEL), *sorted((ROOT / "docs").rglob("*.md"))]
PAGES_WITH_COMMANDS = [page for page in PAGES if page.name != "CHANGELOG.md"]  # it also names former commands
GENERATED = re.compile(r"(?:^|/)reference/(?:cli|configuration|http)\.md$")  # by docs/hooks.py

BANNED_NAMES = {"told", "wanted", "asked", "given", "one", "made"}  # nouns say what a value is

WITH_STREETS = ("address_detectors.py", "test_redaction.py")  # words for streets are what they are about
GENERATED_TEXT = "phrases"  # folder with what members of the generated graph write

BANNED = {
    r"\bthe whole road\b|\bthe road\b|\bhouse\b": "pipeline, architecture",
    r"\bis of no account\b": "is ignored",
    r"\bleft no word\b": "exited without reporting",
    r"\bwhat (?:a|the|this) \w+ c[ao]mes? to\b": "run summary",
    r"\bnobody (?:has|needs) to\b": "recovers automatically",
    r"\bin vain\b": "no worker deadlocks",
    r"\banew\b": "again",
    r"\blest\b": "so that ... not",
    r"\bwhoever\b": "the caller, the user",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\basked for\b": "target, requested",
    r"\bdearer\b": "more expensive",
    r"\bwhere least is done\b": "to the least-loaded replica",
    r"\bdone again is\b": "replayed steps are",
    r"\bask(?:s|ed|ing)? over HTTP\b": "call the HTTP API",
    r"\b(?:rooms?|roads?|doors?)\b": "no metaphors",
    r"\bin hand\b": "in flight, running",
    r"\bg(?:o|oes|oing) on\b": "continue",
    r"\bhanded on\b|\bon its way\b|\blet in\b": "forwarded, accepted",
    r"\bbelieved\b": "estimated",
    r"\bhonest\b": "exact, true",
    r"\btells? of\b|\bknows? nothing\b": "reports, does not read",
    r"\btakes? back\b": "cancels",
    r"\bc[ao]mes? to\b": "is",
    r"\bwho may\b": "that can",
    r"^\W*(?-i:Holds) ": "name the content",
    r"(?<=[a-z] )(?<!there )(?:is|are) no (?!longer|more|less|other|such)[a-z]+": "is not a",
    r"\b[Oo]wns: |\bDoes not own\b": "one or two sentences on what the module contains",
    r"\bissues? #?\d": "no reference to our own issue numbers",
}


def commands() -> list[str]:
    """Return every command of the pages, from shell blocks and from inline code."""
    found: list[str] = []
    for page in PAGES_WITH_COMMANDS:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            found += [line.split(" #")[0].strip() for line in block.splitlines() if line.strip()]
        found += re.findall(r"`((?:brew360|make|python -m) [^`]+)`", page.read_text())
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
        assert command in (ROOT / "docs/clients.md").read_text()  # test_service_commands.py sends those of that page
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2])
    elif words[0] in ("cd", "export", "pip", "mkdir"):
        pass  # the tests of the how-to pages run these steps
    else:
        pytest.fail(f"no test knows how to check {command!r}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_named_file_exists(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link and not GENERATED.search(link)]
    for name in links:
        assert (page.parent / name).exists(), name
    if page.name == "CHANGELOG.md":
        return
    examples = set(re.findall(r"^`([^`\n]+)`:$", text, re.MULTILINE))  # files that the reader writes
    files = {name for name in re.findall(r"`([\w./-]+\.(?:py|yaml|txt|md))`", text) if "/" in name} - examples
    packages = ["", "platform/brew_platform", "data/brew_data", "train/brew_train", "serve/brew_serve", "tests"]
    for name in files:
        path = re.sub(r"^brew_(\w+)/", r"\1/brew_\1/", name)
        assert any((ROOT / folder / path).exists() for folder in packages), name


def named_modules(text: str) -> set[str]:
    """Return the dotted names of our packages in inline code; `.name` is beside the name before it."""
    names: list[str] = []
    for name in re.findall(r"`(brew_\w+(?:\.\w+)+|\.[a-z]\w+)`", text):
        if not name.startswith("."):
            names.append(name)
        elif names:
            names.append(names[-1].rsplit(".", 1)[0] + name)
    return set(names)


def exists(name: str) -> bool:
    """Return whether a dotted name is a module, or a word in the module that contains it."""
    parts = name.split(".")
    folder = ROOT / {"brew_eval": "evaluation"}.get(parts[0], parts[0].removeprefix("brew_"))
    for length in range(len(parts), 0, -1):
        path = folder.joinpath(*parts[:length])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                rest = parts[length : length + 1]
                return not rest or re.search(rf"\b{rest[0]}\b", file.read_text()) is not None
    return False


def test_every_named_module_exists() -> None:
    for page in PAGES:
        text = page.read_text() if page.name == "ARCHITECTURE.md" else re.sub(r"`\.\w+`", "", page.read_text())
        missing = sorted(name for name in named_modules(text) if not exists(name))
        assert not missing, f"{page.relative_to(ROOT)} names {', '.join(missing)}"
    assert not exists("brew_train.loop.no_such_function")
    assert named_modules("`brew_train.loop`, `.stage`") == {"brew_train.loop", "brew_train.stage"}


def prose(file: Path) -> list[tuple[int, str]]:
    """Return the numbered lines of a file; of Python only comments and strings."""
    text = file.read_text()
    if file.suffix != ".py":
        return list(enumerate(text.splitlines(), 1))
    lines: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            lines += [(token.start[0] + i, line) for i, line in enumerate(token.string.splitlines())]
    return lines


def banned(files: list[Path]) -> list[str]:
    """Return file, line, phrase and suggestion of every banned phrase."""
    patterns = [(re.compile(pattern, re.IGNORECASE), suggestion) for pattern, suggestion in BANNED.items()]
    names = {file: str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else file.name for file in files}
    return [
        f"{names[file]}:{number}: {match[0]!r}: write {suggestion}"
        for file in files
        for number, line in prose(file)
        for pattern, suggestion in patterns
        for match in pattern.finditer(line)
    ]


def tracked_files(*patterns: str) -> list[Path]:
    """Return the files under version control that match, without this one."""
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in listed.stdout.split("\n") if name]
    return [file for file in files if file.exists() and file != Path(__file__)]


def banned_names(file: Path) -> list[str]:
    """Return file, line and name of every variable, parameter and function with a banned name."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        else:
            continue
        if name in BANNED_NAMES:
            found.append(f"{file}:{node.lineno}: {name}")
    return found


def test_no_file_has_a_banned_phrase() -> None:
    files = tracked_files("*.md", "*.yaml", "*.py")
    files = [file for file in files if file.name not in WITH_STREETS and file.parent.name != GENERATED_TEXT]
    assert len(files) > 100
    found = banned(files)
    assert not found, "\n" + "\n".join(found)


def test_no_variable_has_a_banned_name(tmp_path: Path) -> None:
    found = [line for file in tracked_files("*.py") for line in banned_names(file)]
    assert not found, "\n" + "\n".join(found)
    file = tmp_path / "module.py"
    file.write_text("def f(asked):\n    for one in asked:\n        print(one)\n")
    assert [line.rsplit(": ")[1] for line in banned_names(file)] == ["asked", "one"]


def test_a_banned_phrase_is_found_in_comments_and_strings_only(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text('"""It waits in vain."""\nlest = 1  # ranks anew\n')
    assert [line.split(": ")[0] for line in banned([file])] == ["module.py:1", "module.py:2"]


def test_readme_fits_on_200_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200

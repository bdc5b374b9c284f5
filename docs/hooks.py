"""A hook of MkDocs that generates the reference pages from the code: CLI, configuration, HTTP and Python."""

import ast
import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeGuard, get_type_hints
from unittest.mock import Mock

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from brew_platform.settings import describe_type

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [ROOT / path for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the pages of the Python reference to the navigation."""
    pages = [{package: f"reference/python/{package}.md"} for package in packages()]
    reference = next(entry["Reference"] for entry in config.nav or [] if "Reference" in entry)
    reference.append({"Python": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "reference/cli.md": cli_page(),
        "reference/configuration.md": configuration_page(),
        "reference/http.md": http_page(),
    }
    for package, modules in packages().items():
        pages[f"reference/python/{package}.md"] = f"# {package}\n\n" + "".join(f"::: {name}\n\n" for name in modules)
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


# --- Python ---


def modules() -> Iterator[tuple[str, Path]]:
    """Yield the dotted name and the file of every module of the areas."""
    for package in PACKAGES:
        for file in sorted(package.rglob("*.py")):
            if file.name != "__main__.py":
                parts = file.relative_to(package.parent).with_suffix("").parts
                yield ".".join(part for part in parts if part != "__init__"), file


def packages() -> dict[str, list[str]]:
    """Return the modules that have public names, by package."""
    found: dict[str, list[str]] = {}
    for name, file in modules():
        if file.name != "__init__.py" and "__all__" in file.read_text():
            found.setdefault(name.rpartition(".")[0], []).append(name)
    return dict(sorted(found.items()))


# --- Configuration ---


def configuration_page() -> str:
    """Describe every keyword-only dataclass whose name ends in `Config` or that a recipe fills."""
    text = [
        "# Configuration\n\nRecipes are YAML files; `key=value` on the command line overrides a field, with dots\n"
        "between the levels. An unknown key is an error that names the nearest known one. Numbers are finite; a value\n"
        "out of the range beside its type is refused before anything starts.\n"
    ]
    for module, file in modules():
        source = file.read_text()
        lines = source.splitlines()
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and is_configuration(node):
                text.append(f"\n## {node.name}\n\n`{module}.{node.name}`\n\n{escape(inspect.cleandoc(doc(node)))}\n")
                bases = [f"`{ast.unparse(base)}`" for base in node.bases if ast.unparse(base) != "Settings"]
                text.append(f"\nIt also has the fields of {' and '.join(bases)}.\n" if bases else "")
                hints = get_type_hints(getattr(import_module(module), node.name), include_extras=True)
                if rows := [row(field, hints, lines) for field in node.body if is_setting(field)]:
                    text += ["\n| field | type | default | meaning |\n|---|---|---|---|\n", *rows]
    return "".join(text)


def is_configuration(node: ast.ClassDef) -> bool:
    """Whether a class is a keyword-only dataclass of settings."""
    keyword_only = any("kw_only=True" in ast.unparse(decorator) for decorator in node.decorator_list)
    named = re.fullmatch(r"[^_]\w*(Config|Job)|Gate|NodeGroup|PromptFormat|RopeScaling", node.name) is not None
    return keyword_only and named


def doc(node: ast.ClassDef) -> str:
    """Return the docstring before its first section."""
    return re.split(r"\n\s*(?:Args|Raises|Attributes):\n", ast.get_docstring(node) or "")[0]


def is_setting(node: ast.stmt) -> TypeGuard[ast.AnnAssign]:
    """Whether a statement of a class declares a field, not a class variable."""
    return isinstance(node, ast.AnnAssign) and not ast.unparse(node.annotation).startswith("ClassVar")


def row(field: ast.AnnAssign, hints: dict[str, Any], lines: list[str]) -> str:
    """Return one row of a table.

    The type comes with the field's range. The meaning is the comment behind the field, or the comment lines above it.

    Raises:
        ValueError: The field has no comment.
    """
    behind = [line.partition("  # ")[2] for line in lines[field.lineno - 1 : field.end_lineno]]
    comment = " ".join(filter(None, behind))
    above: list[str] = []
    number = field.lineno - 2
    while not comment and lines[number].strip().startswith("# "):
        above.insert(0, lines[number].strip().removeprefix("# "))
        number -= 1
    annotation = ast.unparse(field.annotation)
    meaning = comment or " ".join(above)
    if not meaning and (section := re.search(r"\w+(Config|Format)\b", annotation)):
        meaning = f"see `{section[0]}`"
    if not meaning:
        raise ValueError(f"line {field.lineno}, {ast.unparse(field)}: write a comment that says what the field means.")
    default = "required" if field.value is None else f"`{ast.unparse(field.value)}`"
    factory = re.fullmatch(r"`field\(default_factory=(.+)\)`", default)
    default = f"`{factory[1]}()`" if factory else default
    name = ast.unparse(field.target)
    kind = escape(describe_type(hints[name]))
    return f"| `{name.rstrip('_')}` | {kind} | {default} | {escape(meaning).replace('|', chr(92) + '|')} |\n"


def escape(text: str) -> str:
    """Escape what Markdown would read as HTML or as a link."""
    return text.replace("<", "&lt;").replace("[", "\\[")


# --- CLI ---


def cli_page() -> str:
    """Describe every command of `brew360` from its own help."""
    from brew_cluster.cli.main import app

    text = ["# CLI\n\nEvery command prints its help with `--help`.\n"]
    text += commands("brew360", typer.main.get_command(app))
    return "".join(text)


def commands(name: str, command: Any) -> Iterator[str]:
    """Yield the section of a command, and those of its subcommands."""
    subcommands = getattr(command, "commands", {})
    if subcommands:
        for word, below in sorted(subcommands.items()):
            yield from commands(f"{name} {word}", below)
        return
    yield f"\n## {name}\n\n{escape(inspect.cleandoc(command.help or ''))}\n\n"
    yield "| argument or option | meaning |\n|---|---|\n"
    for parameter in command.params:
        is_option = parameter.param_type_name == "option"
        names = ", ".join(parameter.opts) if is_option else parameter.metavar or (parameter.name or "").upper()
        plain = isinstance(parameter.default, str | int | float) and not isinstance(parameter.default, bool)
        default = f" Default: `{parameter.default}`." if plain else ""
        meaning = " ".join((getattr(parameter, "help", None) or "").split())
        yield f"| `{names}` | {escape(meaning)}{default} |\n".replace("`|`", "`\\|`")


# --- HTTP ---


def http_page() -> str:
    """Describe every route from the OpenAPI document, with its parameters, bodies and answers."""
    document = openapi()
    text = [
        "# HTTP\n\nGenerated from the OpenAPI document. A running service has it at `/openapi.json`, and shows it at "
        "`/docs`.\n"
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            text.append(f"\n## {method.upper()} {escape(path.replace('{', '&#123;'))}\n\n")
            text.append(escape(operation.get("description") or operation.get("summary") or "") + "\n")
            for scope in operation["security"][0]["key"]:
                text.append(f"\nScope of the key: `{scope}`\n")
            for parameter in operation.get("parameters", []):
                text.append(f"\n- `{parameter['name']}` ({parameter['in']}): {parameter.get('description', '')}\n")
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            for name in references(body):
                text.append(f"\nBody: [`{name}`](#{name.lower()})\n")
            text.append("\n| status | answer |\n|---|---|\n")
            for status, answer in operation.get("responses", {}).items():
                schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
                links = ", ".join(f"[`{name}`](#{name.lower()})" for name in references(schema))
                text.append(f"| {status} | {escape(answer.get('description', ''))} {links} |\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        text.append(f"\n## {name} {{: #{name.lower()} }}\n\n{escape(schema.get('description', ''))}\n")
        if "properties" in schema:
            text.append("\n| field | type | required | meaning |\n|---|---|---|---|\n")
        for field, value in schema.get("properties", {}).items():
            required = "yes" if field in schema.get("required", []) else "no"
            meaning = escape(" ".join(value.get("description", "").split())).replace("|", "\\|")
            text.append(f"| `{field}` | {kind(value)} | {required} | {meaning} |\n")
        for example in schema.get("examples", []):
            text.append(f"\n```json\n{json.dumps(example, indent=2)}\n```\n")
    return "".join(text)


def references(schema: dict[str, Any]) -> list[str]:
    """Return the names of the schemas that a schema refers to."""
    return re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(schema))


def kind(schema: dict[str, Any]) -> str:
    """Return the type of a field in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[`{name}`](#{name.lower()})"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(kind(choice) for choice in choices))
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {kind(schema.get('items', {}))}"
    return schema.get("type", "any")


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of an online service with the nearline routes; it needs no backend."""
    from brew_serve.http.app import create_app
    from brew_serve.http.routes.nearline import nearline_router

    return create_app(Mock(), routers=[nearline_router(lambda: None)]).openapi()

"""`python -m bench.small_base.task_subset OUT`: writes a suite with some of the tasks of professional_network.

Numbers such as followers are percentiles ("top 10%") in that suite; `--numbers raw` writes them as they are. With
`--texts short`, profiles and entities have one to three fields and one form, so that a prompt shows more turns.

Tasks with a question of their own train on one answer for each prompt, which costs up to 1,024 tokens. Tasks that
follow their surface train on all answers of a history at once. The long stages of the base model have only these.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from brew_cluster.cli.runner import supervise
from brew_data.prompts.suite import SUITES, load_suite
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import UserError
from brew_platform.files import atomic_folder

__all__ = ["NUMBERS", "SHORT", "SUITE", "TEXTS", "write_subset"]

SUITE = "professional_network"
NUMBERS = ("percentile", "raw")
TEXTS = ("all", "short")
PROFILE = ("headline", "location", "about")  # of a short suite
SHORT: Mapping[str, tuple[str, ...]] = MappingProxyType(  # what it shows of each type
    {
        "job": ("title",),
        "search_result": ("query", "title"),
        "post": ("text",),
        "notification": ("text",),
        "person": ("headline",),
        "company": ("about",),
        "course": ("title",),
        "group": ("name",),
        "message": ("subject",),
        "ad": ("text",),
        "article": ("title",),
        "event": ("title",),
    }
)


def write_subset(
    out: Path, tasks: Sequence[str] | None = None, *, numbers: str = "percentile", texts: str = "all"
) -> Path:
    """Write the suite.

    Args:
        out: Folder of the suite; replaced.
        tasks: Names of its tasks; None: all that follow their surface, and those that are not trained.
        numbers: percentile or raw.
        texts: all, or short: the fields of `SHORT`, and no alternatives.

    Returns:
        `out`.

    Raises:
        UserError: A task is unknown.
    """
    suite = load_suite(SUITE)
    if tasks is None:
        tasks = [task.name for task in suite.tasks if task.follows_surface or not task.in_training]
    if unknown := sorted(set(tasks) - {task.name for task in suite.tasks}):
        raise UserError(f"the suite {SUITE} has no task {unknown[0]}; its tasks are the files of its folder tasks/.")
    text = (SUITES / SUITE / "suite.yaml").read_text()
    content = yaml.safe_load(text.replace(" | percentile", "") if numbers == "raw" else text)
    with atomic_folder(out) as temporary:
        (temporary / "tasks").mkdir()
        for path, found in [
            (temporary / "suite.yaml", _shortened(content) if texts == "short" else content),
            *((temporary / "tasks" / f"{name}.yaml", _task(name, texts)) for name in tasks),
        ]:
            path.write_text(yaml.safe_dump(found, sort_keys=False, allow_unicode=True))
    return out


def _task(name: str, texts: str) -> dict[str, Any]:
    task: dict[str, Any] = yaml.safe_load((SUITES / SUITE / "tasks" / f"{name}.yaml").read_text())
    return {key: value for key, value in task.items() if texts == "all" or not key.endswith("alternatives")}


def _shortened(suite: dict[str, Any]) -> dict[str, Any]:
    """Return the content of suite.yaml with the fields of `SHORT`, and without alternatives."""

    def template(fields: Sequence[str]) -> dict[str, list[str]]:
        phrases = {name: 'searched for "{{ query }}"' if name == "query" else f"{{{{ {name} }}}}" for name in fields}
        return {"fields": list(phrases), "phrases": list(phrases.values())}

    def without_alternatives(value: Any) -> Any:
        if isinstance(value, list):
            return [without_alternatives(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {key: without_alternatives(item) for key, item in value.items() if not key.endswith("alternatives")}

    short = {entity_type: template(fields) for entity_type, fields in SHORT.items()}
    changed: dict[str, Any] = without_alternatives(suite | {"profile": template(PROFILE), "entities": short})
    return changed


def main() -> None:
    """Write a suite."""
    parser = argparse.ArgumentParser(prog="python -m bench.small_base.task_subset", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", action="append", help="A task; may be repeated. Default: without own questions.")
    parser.add_argument("--numbers", choices=NUMBERS, default=NUMBERS[0], help="Default: %(default)s.")
    parser.add_argument("--texts", choices=TEXTS, default=TEXTS[0], help="Default: %(default)s.")
    options = parser.parse_args()
    with supervise(PlainConsole()):
        write_subset(options.out, options.task, numbers=options.numbers, texts=options.texts)


if __name__ == "__main__":
    main()

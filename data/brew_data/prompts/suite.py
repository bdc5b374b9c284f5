"""Loads task suites from folders: `suite.yaml` with surfaces and templates, and a file per task.

The class itself, `TaskSuite`, is in `brew_data.prompts.task_suite`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from brew_data.prompts.suite_format import check_format_version
from brew_data.prompts.task_suite import TaskSuite
from brew_data.prompts.tasks import TaskSpec
from brew_platform.config import load_config
from brew_platform.errors import ConfigError
from brew_platform.yaml_files import parse_yaml

__all__ = ["SUITES", "TaskSuite", "changed_suite", "load_suite"]

SUITES = Path(__file__).parent / "suites"


def load_suite(name_or_folder: str | Path, changes: Sequence[str] = ()) -> TaskSuite:
    """Load a suite from a folder with `suite.yaml` (templates and surfaces) and `tasks/*.yaml` (one task each).

    Args:
        name_or_folder: The name of a built-in suite (a folder of `suites/`), or the path of a folder.
        changes: As for `changed_suite`.

    Raises:
        ConfigError: The suite does not exist, it has no task, or a file in it or a change is malformed.
    """
    folder = SUITES / str(name_or_folder)
    if not (folder / "suite.yaml").exists():
        folder = Path(name_or_folder)
    if not (folder / "suite.yaml").exists():
        shipped = ", ".join(sorted(path.name for path in SUITES.iterdir() if path.is_dir()))
        raise ConfigError(
            f"suite {name_or_folder!r} is neither a built-in suite ({shipped}) nor a folder that contains suite.yaml."
        )
    task_files = sorted((folder / "tasks").glob("*.yaml"))
    for path in (folder / "suite.yaml", *task_files):
        _check_format(path)
    suite = load_config(TaskSuite, folder / "suite.yaml")
    tasks = [load_config(TaskSpec, path) for path in task_files]
    if not tasks:
        raise ConfigError(f"suite {suite.name}: {folder / 'tasks'} contains no task file (*.yaml). Add one per task.")
    return changed_suite(replace(suite, tasks=[*suite.tasks, *tasks]), changes)


def changed_suite(suite: TaskSuite, changes: Sequence[str]) -> TaskSuite:
    """Return a suite with other settings, for a comparison of prompts.

    Args:
        suite: The suite.
        changes: `key=value`, applied in turn. Surfaces, tasks, actions and outcomes are named, as in
            `tasks.movie_rating.history.max_interactions=50` or `surfaces.ratings.actions.rated_1.label=bad`.

    Raises:
        ConfigError: A key is unknown, or the changed suite is invalid.
    """
    for change in changes:
        plain = suite.to_dict()
        suite = load_config(TaskSuite, plain, overrides=[_by_index(plain, change)])
    return suite


def _by_index(plain: Any, change: str) -> str:
    """Replace the names of list elements in the key of a change by their indices."""
    key, equals, value = change.partition("=")
    parts = []
    for part in key.strip().split("."):
        if isinstance(plain, list):
            names = [item.get("name") if isinstance(item, Mapping) else None for item in plain]
            if part not in names:
                raise ConfigError(
                    f"the change {change!r} names {part!r}, which the suite does not have. Use one of "
                    f"{', '.join(str(name) for name in names)}."
                )
            plain, part = plain[names.index(part)], str(names.index(part))
        else:
            plain = plain.get(part) if isinstance(plain, Mapping) else None
        parts.append(part)
    return f"{'.'.join(parts)}{equals}{value}"


def _check_format(path: Path) -> None:
    """Refuse a file of an earlier format before its keys are read."""
    try:
        data = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError):
        return  # load_config reports it
    if isinstance(data, dict):
        earlier = isinstance(data.get("profile"), list)  # in version 2, templates were lists
        if "format_version" in data or earlier:
            check_format_version(str(data.get("name")), data.get("format_version"))

"""Sweeps: one release recipe with several settings, side by side."""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from brew_cluster.jobs.recipe import find_recipe
from brew_cluster.releases.config import read_release
from brew_cluster.releases.plan import plan_release
from brew_cluster.releases.release import Release
from brew_cluster.releases.results import collect, find_releases, write_tables
from brew_cluster.releases.runner import StepRunner
from brew_cluster.releases.sweep_file import write_sweep_file
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import BrewError, ConfigError, UserError, first_cause
from brew_platform.settings import require_name
from brew_platform.yaml_files import override_text, read_yaml

__all__ = ["SweepRecipe", "parse_sweep", "plan_sweep", "read_sweep", "run_sweep"]

_MOST_RELEASES = 1_000
_KEYS = ("name", "recipe", "settings", "grid", "releases")


@dataclass(frozen=True, kw_only=True)
class SweepRecipe:
    """A sweep as it was written.

    Args:
        name: Of the sweep.
        recipe: Of its releases.
        releases: The overrides of each release, by its name.
    """

    name: str
    recipe: str
    releases: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_sweep(recipe: str) -> SweepRecipe:
    """Read the recipe of a sweep.

    It has the keys `recipe` (of the releases), `settings` (of all of them), `grid` (a list of values for each setting;
    every combination is a release) and `releases` (further ones: settings by name). Settings are `section.key: value`,
    or `without: [section]`.

    Args:
        recipe: Path of a YAML file, or the name of one that ships.

    Raises:
        ConfigError: There is no such recipe, a key is unknown, or it has no release or too many.
    """
    path = find_recipe("sweep", recipe)
    return parse_sweep(read_yaml(path), path)


def parse_sweep(content: Mapping[Any, Any], path: Path) -> SweepRecipe:
    """Read a sweep from the content of a recipe, as `read_sweep`.

    Args:
        content: From `read_yaml`.
        path: Of the file, for messages; its name is the name of the sweep unless `content` has one.
    """
    if unknown := [str(key) for key in content if key not in _KEYS]:
        raise ConfigError(f"{path} has the unknown key {unknown[0]}. Keys are {', '.join(_KEYS)}.")
    if not isinstance(content.get("recipe"), str):
        raise ConfigError(
            f"{path} has no recipe. Add the path or the name of a release recipe, as recipe: release.yaml"
        )
    name = require_name("sweep", override_text(content.get("name", path.stem)))
    common = _settings(content.get("settings"), "settings", path)
    grid = _mapping(content.get("grid"), "grid", path)
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"grid.{key} in {path} is not a list of values. Write the values in brackets.")
    if (count := prod(len(values) for values in grid.values())) > _MOST_RELEASES:
        raise ConfigError(f"the grid of {path} has {count:,} releases, more than {_MOST_RELEASES:,}. Leave values out.")
    releases: dict[str, Sequence[str]] = {}
    combinations = list(product(*grid.values())) if grid else []
    for number, values in enumerate(combinations, 1):
        changed = [f"{key}={override_text(value)}" for key, value in zip(grid, values, strict=True)]
        releases[f"{name}-{number:0{len(str(len(combinations)))}d}"] = [*common, *changed]
    for key, settings in _mapping(content.get("releases"), "releases", path).items():
        changed = _settings(settings, f"releases.{key}", path)
        releases[require_name("release", f"{name}-{override_text(key)}")] = [*common, *changed]
    if not releases:
        raise ConfigError(f"{path} has no release. Add a grid of values, or releases with settings.")
    return SweepRecipe(name=name, recipe=content["recipe"], releases=releases)


def plan_sweep(sweep: SweepRecipe, folder: Path, steps: Path) -> list[Release]:
    """Check every release of a sweep.

    Args:
        sweep: The sweep.
        folder: Of the sweep; each release has a folder in it.
        steps: Of the steps, which the releases share.

    Raises:
        UserError: A release has an invalid setting; the message names the release.
    """
    found = []
    for name, overrides in sweep.releases.items():
        try:
            recipe = read_release(sweep.recipe, [*overrides, f"name={name}"])
            planned = plan_release(recipe, steps)
        except UserError as error:
            raise type(error)(f"release {name}: {error}") from error
        found.append(Release(recipe=recipe, path=sweep.recipe, folder=folder / name, steps=planned))
    return found


def run_sweep(
    releases: Sequence[Release],
    folder: Path,
    runner: StepRunner,
    console: PlainConsole,
    *,
    at_once: int = 1,
    mlflow: str | None = None,
) -> None:
    """Run the releases, and write the tables whenever a step starts or ends.

    Args:
        releases: From `plan_sweep`.
        folder: Of the sweep.
        runner: Runs the commands of the steps.
        console: The output.
        at_once: Releases that run at the same time.
        mlflow: As in `Release.run`.

    Raises:
        BrewError: Some releases failed; the others have finished.
    """
    write_sweep_file(folder, [release.folder.name for release in releases])
    for release in releases:
        release.content().save(release.folder)
    writing = threading.Lock()
    waiting, failed, stopped = deque(releases), dict[str, str](), threading.Event()

    def write() -> None:
        with writing:
            write_tables(collect(find_releases([folder]), base=folder), folder)

    def work() -> None:
        while waiting and not stopped.is_set():
            try:
                release = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                release.run(runner, console, mlflow=mlflow, on_change=write)
            except Exception as error:
                failed[release.recipe.name] = str(first_cause(error))
                console.print(f"{release.recipe.name}: {failed[release.recipe.name]}", style="red", soft_wrap=True)

    write()
    if at_once == 1:
        work()
    else:
        # They do not keep the process alive after an interrupt; the command then ends what they started.
        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(releases)))]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            stopped.set()
    write()
    console.print(f"results: {folder / 'table.html'}, {folder / 'table.csv'}, {folder / 'table.xlsx'}")
    if failed:
        raise BrewError(
            f"{len(failed)} of {len(releases)} releases failed: {', '.join(failed)}. Their reasons are above and in "
            f"the table. Correct the causes and run the same command again: finished steps are kept."
        )


def _mapping(value: Any, key: str, path: Path) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} in {path} is not a map. Write lines of `section.key: value` below it.")
    return value


def _settings(value: Any, key: str, path: Path) -> list[str]:
    return [f"{override_text(name)}={override_text(below)}" for name, below in _mapping(value, key, path).items()]

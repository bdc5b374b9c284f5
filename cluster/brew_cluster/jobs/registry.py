"""The registry as the commands open it, the gates of a recipe, cards, and copies of versions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from brew_cluster.jobs.recipe import RECIPES
from brew_platform.config import load_config
from brew_platform.errors import ConfigError, UserError
from brew_platform.files import replace_atomically
from brew_platform.registry.card import version_card
from brew_platform.registry.events import collected
from brew_platform.registry.gates import Gate, ReleaseConfig
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store
from brew_platform.yaml_files import read_yaml

__all__ = ["DEFAULT_MODEL", "DEFAULT_REGISTRY", "copy_versions", "open_registry", "recipe_gates", "write_cards"]

DEFAULT_REGISTRY, DEFAULT_MODEL = "runs/registry", "brew360"


def open_registry(url: str | None, model: str | None, *, empty: bool = False) -> Registry:
    """Open the registry of a model.

    Args:
        url: Its store; None: the default.
        model: Name of the model; None: the default.
        empty: Whether it may be without a version, because one is about to be published.

    Raises:
        UserError: The registry has no version of this model.
        StorageError: The store cannot be reached.
    """
    url, model = url or DEFAULT_REGISTRY, model or DEFAULT_MODEL
    registry = Registry(open_store(url), model)
    if not empty and not registry.versions():
        raise UserError(
            f"the registry {url} has no version of {model}. Check --registry and --model, or publish one first: "
            f"brew360 registry publish EXPORT --registry {url} --model {model}"
        )
    return registry


def recipe_gates(recipe: str) -> list[Gate]:
    """Read the gates of a recipe; its other sections are ignored.

    Args:
        recipe: A YAML file with `release.gates`, or the name of a recipe that ships, such as demo_synthetic.

    Raises:
        ConfigError: There is no such recipe, or it has no valid gates.
    """
    path = Path(recipe) if Path(recipe).is_file() else RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise ConfigError(f"{recipe} is neither a YAML file nor a recipe that ships ({known}).")
    release: Any = read_yaml(path).get("release")
    gates = release.get("gates") if isinstance(release, Mapping) else None
    if not gates:
        raise ConfigError(
            f"{path} names no gates. Add them, e.g. release: {{gates: [{{figure: post_like.auc, at_least: 0.6}}]}}"
        )
    return load_config(ReleaseConfig, {"gates": gates}, key="release").gates


def copy_versions(
    source: Registry,
    target: Registry,
    numbers: Sequence[int],
    *,
    on_version: Callable[[int], None] = lambda done: None,
) -> dict[int, int]:
    """Copy versions to another registry, oldest first, without those whose files garbage collection has removed.

    Args:
        source: Has the versions.
        target: Receives them.
        numbers: The versions.
        on_version: Called with the number of versions that are done.

    Returns:
        The number of each copy in `target`, by the number in `source`.

    Raises:
        RegistryError, StorageError: As `Registry.copy_from`. Versions that were copied stay.
    """
    removed = collected(source.events())
    copies = {}
    for done, number in enumerate(sorted(numbers), 1):
        if number not in removed:
            copies[number] = target.copy_from(source, number).number
        on_version(done)
    return copies


def write_cards(registry: Registry, folder: Path) -> list[Path]:
    """Write the card of every version into a folder, as `<model>-<number>.md`, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    events = registry.events()
    paths = []
    for number in registry.versions():
        paths.append(folder / f"{registry.model}-{number}.md")
        replace_atomically(paths[-1], version_card(registry.version(number), events, model=registry.model))
    return paths

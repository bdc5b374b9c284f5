"""Finds a recipe by path or name. The built-in recipes are the files `recipes/<kind>_<name>.yaml`."""

from pathlib import Path

from brew_platform.errors import ConfigError

__all__ = ["RECIPES", "find_recipe"]

RECIPES = Path(__file__).parent.parent / "recipes"


def find_recipe(kind: str, name: str) -> Path:
    """The path of a recipe.

    Args:
        kind: train or serve.
        name: path of a YAML file, or what stands between `<kind>_` and `.yaml` in the name of one that ships.

    Raises:
        ConfigError: there is none of that name.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = RECIPES / f"{kind}_{name}.yaml"
    if not shipped.is_file():
        known = sorted(file.stem.removeprefix(f"{kind}_") for file in RECIPES.glob(f"{kind}_*.yaml"))
        raise ConfigError(f"{name} is neither a YAML file nor a recipe that ships ({', '.join(known)}).")
    return shipped

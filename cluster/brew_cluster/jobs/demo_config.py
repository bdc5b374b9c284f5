"""The configuration of a demo run, and how it is loaded from a recipe."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from brew_cluster.jobs.dataset_config import DatasetConfig, load_source_recipe
from brew_data.sources.base import Source, load_source
from brew_eval.gates import validate_gates
from brew_platform.errors import ConfigError
from brew_platform.registry.gates import ReleaseConfig
from brew_platform.settings import PositiveInt
from brew_serve.engines.config import EngineConfig
from brew_train.config import TrainConfig

__all__ = ["RECIPES", "DemoConfig", "DemoReleaseConfig", "load_recipe"]

RECIPES = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class DemoReleaseConfig(ReleaseConfig):
    """The conditions of a promotion, and the slates that the demo ranks over HTTP."""

    RENAMED: ClassVar[dict[str, str]] = {  # `load_config` names the new key in its error
        "min_gap_closed": "gates: [{figure: TASK.gap_closed, at_least: VALUE}]",
        "min_gain": "gates: [{figure: TASK.gain, at_least: VALUE}]",
    }

    force_reason: str = ""  # promote without gates, or although one fails; the registry's log keeps this reason
    slate: PositiveInt = 8  # candidates in each request that is shown
    requests: PositiveInt = 30  # requests that the latency is measured on


@dataclass(frozen=True, kw_only=True)
class DemoConfig(DatasetConfig):
    """The configuration of one demo run."""

    train: TrainConfig = field(default_factory=TrainConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    release: DemoReleaseConfig = field(default_factory=DemoReleaseConfig)


def load_recipe(
    source_name: str, overrides: list[str], *, recipe: Path | None = None, input_path: Path | None = None
) -> DemoConfig:
    """Load the recipe of a source.

    Args:
        source_name: Of an installed source.
        overrides: `key=value`, applied after the recipe.
        recipe: A YAML file; None: the source's own, or the one that ships under the source's name.
        input_path: Input files, for a source that reads them from one place.

    Raises:
        UserError: No such source is installed, or it cannot be loaded.
        ConfigError: There is no recipe, it is for another source, or a setting is unknown, of the wrong type, or not
            possible with this source.
    """
    source = load_source(source_name)
    path = _find_recipe(source, recipe)
    settings = {} if input_path is None else {"path": str(input_path)}
    config = load_source_recipe(DemoConfig, path, overrides, settings=settings, source=source_name)
    if config.source != source_name:
        raise ConfigError(
            f"the recipe {path} and the overrides set source to {config.source!r}, but --source is {source_name!r}. "
            f"Pass --source {config.source}, or another recipe."
        )
    validate_gates(
        config.release.gates,
        [task.name for task in config.load_suite().tasks],
        has_true_probabilities=source.has_true_probabilities,
    )
    return config


def _find_recipe(source: type[Source], recipe: Path | None) -> Path:
    shipped = RECIPES / f"demo_{source.name}.yaml"
    path = recipe or source.recipe or (shipped if shipped.exists() else None)
    if path is None:
        raise ConfigError(f"the source {source.name} does not ship a recipe. Pass --recipe FILE.")
    return path

"""The settings of `brew360 data search-mix`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from brew_cluster.jobs.recipe import find_recipe
from brew_platform.config import load_config
from brew_platform.errors import ConfigError
from brew_platform.settings import NonNegativeFloat, NonNegativeInt, PositiveInt, Range, Settings
from brew_train.config import ModelConfig, StageConfig

__all__ = ["MixSearchConfig", "load_mix_search"]


@dataclass(kw_only=True)
class MixSearchConfig(Settings):
    """How `brew360 data search-mix` tries mixes.

    Raises:
        ConfigError: A value is out of its range, a target has too few measurements to be extrapolated to, or the
            schedule of the stage makes losses during training incomparable.
    """

    mixes: Annotated[int, Range(ge=4, le=10_000)] = 16  # the natural one, one with much of each source, random ones
    tokens: PositiveInt = 500_000  # that a model is trained on
    # Of the loss during a trial, each after the same number of tokens. Three or more allow `target_tokens`.
    measurements: Annotated[int, Range(ge=1, le=1_000)] = 4
    # Models to train. Two show whether mixes have the same order; three or more allow `target_parameters`.
    sizes: list[ModelConfig] = field(default_factory=lambda: [ModelConfig()])
    stage: StageConfig = field(default_factory=lambda: StageConfig(name="mix"))  # `steps` follow from `tokens`
    threads: Annotated[int, Range(ge=1, le=4_096)] = 2  # CPU cores of a trial
    concurrent: PositiveInt = 1  # trials at a time
    validation_tokens: PositiveInt = 50_000  # at most, of each validation set
    # Of validation sets (tasks, profiles and networks) in the loss; empty: 1 for each task.
    weights: dict[str, NonNegativeFloat] = field(default_factory=dict)
    target_parameters: PositiveInt | None = None  # of the model that the mix is for; null: the largest of `sizes`
    target_tokens: PositiveInt | None = None  # that it is trained on; null: `tokens`
    seed: NonNegativeInt = 0  # of the mixes and of training

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sizes:
            raise ConfigError("sizes is empty; name at least one model.")
        for name, count, unit in (
            ("target_parameters", len(self.sizes), "sizes"),
            ("target_tokens", self.measurements, "measurements"),
        ):
            if getattr(self, name) is not None and count < 3:
                raise ConfigError(
                    f"{name} is set, but there are only {count} {unit}: a scaling law has three numbers. Set {unit} to "
                    f"3 or more, or remove {name}."
                )
        if self.stage.schedule != "schedule_free":
            raise ConfigError(
                f"stage.schedule is {self.stage.schedule}, which ends at a fixed step, so that losses before it are "
                f"not those of shorter runs. Use schedule_free."
            )


def load_mix_search(recipe: str, overrides: Sequence[str] = ()) -> MixSearchConfig:
    """Load the settings of a search.

    Args:
        recipe: Path of a YAML file, or the name of a recipe that ships: small.
        overrides: `key=value`.

    Raises:
        ConfigError: There is no such recipe, or a setting is unknown or of the wrong type.
    """
    return load_config(MixSearchConfig, find_recipe("mix", recipe), overrides=overrides)

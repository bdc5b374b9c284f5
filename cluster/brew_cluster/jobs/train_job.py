"""The settings of a training job."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from brew_cluster.jobs.recipe import find_recipe
from brew_platform.config import load_config
from brew_platform.errors import ConfigError
from brew_platform.registry.gates import ReleaseConfig
from brew_platform.settings import PositiveInt, Settings
from brew_train.config import TrainConfig

__all__ = ["TrainJob", "load_job"]


@dataclass(kw_only=True)
class TrainJob(Settings):
    """The settings of a training job. Paths are relative to the working directory.

    Raises:
        ConfigError: `bins` or `evaluation` names an unknown stage, or `prompts` is not a local folder.
    """

    RENAMED: ClassVar[dict[str, str]] = {"tokenizer": "prompts"}  # `load_config` names the new key in its error

    data: str = ""  # folder that `brew360 data build` made; the paths below may refer to it as ${data}
    run: str = ""  # folder of this run; an existing run is continued
    prompts: str = "${data}/prompts"  # folder of the data's prompts (tokenizer, suite, format); exports contain them
    # Folder of packed bins for each stage, by its name: a path, or s3://bucket/folder.
    bins: dict[str, str] = field(default_factory=dict)
    evaluation: dict[str, str] = field(default_factory=dict)  # the same, for stages with evaluate_every
    context_length: PositiveInt = 512  # maximum number of tokens that the model reads
    vocabulary_size: PositiveInt | None = None  # for a dry run without a tokenizer; else the tokenizer's
    train: TrainConfig = field(default_factory=TrainConfig)
    release: ReleaseConfig = field(default_factory=ReleaseConfig)  # gates of the model; none: those of the data

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = sorted({*self.bins, *self.evaluation} - {stage.name for stage in self.train.stages})
        if unknown:
            raise ConfigError(
                f"bins are given for {', '.join(unknown)}, but the stages are "
                f"{', '.join(stage.name for stage in self.train.stages)}."
            )
        if "://" in self.prompts:
            raise ConfigError(
                f"prompts is {self.prompts}, but prompts are read from a local folder: copy them to this machine, and "
                f"pass prompts=FOLDER."
            )

    def require_run(self) -> None:
        """Raise a ConfigError if `run` is not set. A dry run needs no run folder."""
        if not self.run:
            raise ConfigError(
                "run has no value: give the run's folder, as run=runs/NAME; the same folder continues it."
            )


def load_job(recipe: str, overrides: Sequence[str] = ()) -> TrainJob:
    """The job that a recipe describes.

    Args:
        recipe: path of a YAML file, or the name of a recipe that ships: cpt, ift, sft.
        overrides: `key=value`.

    Raises:
        ConfigError: there is no such recipe, or a setting is unknown or of the wrong type.
    """
    return load_config(TrainJob, find_recipe("train", recipe), overrides=overrides)

"""The configuration of a data set, and how a recipe is loaded whose source decides the type of a section."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from omegaconf import DictConfig, OmegaConf

from brew_cluster.jobs.recipe import find_recipe
from brew_data.corpora.config import CorpusConfig
from brew_data.privacy.config import PrivacyConfig
from brew_data.prompts.compiler import PromptFormat
from brew_data.prompts.suite import TaskSuite, load_suite
from brew_data.prompts.tokenizer import TokenizerConfig
from brew_data.prompts.variation import VariationConfig
from brew_data.sources.base import NoSettings, load_source
from brew_data.sources.quarantine import QuarantineConfig
from brew_data.split import SplitConfig
from brew_platform.config import load_config
from brew_platform.errors import ConfigError, UserError
from brew_platform.registry.gates import ReleaseConfig
from brew_platform.settings import NonNegativeInt, Settings, require_name

__all__ = ["DatasetConfig", "load_dataset_config", "load_source_recipe"]

# Folders of a data set, which no corpus replaces.
FOLDERS = (
    "bins",
    "days",
    "evaluation",
    "logs",
    "pairs",
    "pairs-evaluation",
    "plots",
    "prompts",
    "quarantine",
    "tables",
)


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(Settings):
    """How `brew360 data build` makes the input of training.

    Raises:
        ConfigError: A value is out of its range, or a corpus has the name of another folder.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"vocabulary_size": "tokenizer.vocabulary_size"}

    source: str  # name of an installed source
    source_config: Any = field(default_factory=NoSettings)  # settings of the source, its `config_class`
    path: str | None = None  # input files, for a source that reads them from one place
    suite: str  # name of a task suite that ships, or a folder; most sources have a default
    # Changes of the suite, e.g. tasks.movie_rating.history.name=round_robin; surfaces, tasks and actions are named
    suite_changes: list[str] = field(default_factory=list)
    split: SplitConfig
    prompt: PromptFormat
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    variation: VariationConfig = field(default_factory=VariationConfig)  # of training documents
    # Whether examples of a task whose prompts begin alike share a document, so that training computes this part once.
    # It applies to the folders `bins` and `evaluation`.
    slates: bool = False
    pairs: NonNegativeInt = 0  # preference pairs for DPO and ORPO, evaluation pairs included; 0: none
    corpora: dict[str, CorpusConfig] = field(default_factory=dict)  # further folders of bins, by name
    quarantine: QuarantineConfig = field(default_factory=QuarantineConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    release: ReleaseConfig = field(default_factory=ReleaseConfig)  # gates of the models that are trained on these data

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.corpora:
            if name in FOLDERS:
                raise ConfigError(
                    f"corpora has a corpus {name!r}, but a data set has a folder of that name. Rename it."
                )
            try:
                require_name("corpus", name)
            except UserError as error:
                raise ConfigError(f"corpora: {error}") from error

    def load_suite(self) -> TaskSuite:
        """Load the suite with its changes.

        Raises:
            ConfigError: As `brew_data.prompts.suite.load_suite`.
        """
        return load_suite(self.suite, self.suite_changes)


Config = TypeVar("Config", bound=DatasetConfig)


def load_dataset_config(recipe: str, overrides: Sequence[str] = ()) -> DatasetConfig:
    """Load a recipe of data.

    Args:
        recipe: The path of a YAML file, or the name of a recipe that ships, e.g. movielens.
        overrides: `key=value`, applied after the recipe.

    Raises:
        UserError: The source is not installed, or it cannot be loaded.
        ConfigError: There is no such recipe, or a setting is unknown, of the wrong type, or missing.
    """
    return load_source_recipe(DatasetConfig, find_recipe("data", recipe), overrides)


def load_source_recipe(
    config_class: type[Config],
    path: Path,
    overrides: Sequence[str],
    *,
    settings: Mapping[str, Any] | None = None,
    source: str | None = None,
) -> Config:
    """Load a recipe whose section `source_config` has the type that the source declares.

    Args:
        config_class: `DatasetConfig`, or a subclass.
        path: The YAML file.
        overrides: `key=value`, applied after the recipe.
        settings: Applied after the recipe, before the overrides.
        source: Name of the source; None: the one that the recipe or an override names.

    Raises:
        UserError: The source is not installed, or it cannot be loaded.
        ConfigError: A setting is unknown, of the wrong type, or missing.
    """
    loaded_source = load_source(source or _source_name(path, overrides))
    settings_class = loaded_source.config_class
    has_defaults = all(
        item.default is not MISSING or item.default_factory is not MISSING for item in fields(settings_class)
    )
    declared = (
        ("source_config", settings_class, field(default_factory=settings_class))
        if has_defaults
        else ("source_config", settings_class)
    )
    # A subclass with the type of this source's settings makes `load_config` check them.
    typed = make_dataclass(config_class.__name__, [declared], bases=(config_class,), frozen=True, kw_only=True)
    defaults = {"source": loaded_source.name, **({"suite": str(loaded_source.suite)} if loaded_source.suite else {})}
    loaded: Any = load_config(typed, defaults, path, settings or {}, overrides=overrides)
    return config_class(**{item.name: getattr(loaded, item.name) for item in fields(config_class)})


def _source_name(path: Path, overrides: Sequence[str]) -> str:
    for override in reversed(overrides):
        key, equals, value = override.partition("=")
        if equals and key.strip() == "source":
            return value.strip()
    try:
        recipe = OmegaConf.load(path)
        assert isinstance(recipe, DictConfig)
        name = recipe.get("source")
    except Exception:  # the file is not a readable recipe; `load_config` explains why
        load_config(DatasetConfig, path)
        raise
    if not isinstance(name, str):
        raise ConfigError(f"{path} has no source. Add a line such as `source: tables`, or pass source=NAME.")
    return name

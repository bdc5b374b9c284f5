"""The settings of the demo's road: one dataclass that gathers what each area owns, and the recipes that ship."""

from dataclasses import dataclass, field
from pathlib import Path

from brew_data.prompts.compiler import PromptFormat
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.split import SplitConfig
from brew_platform.config import load_config
from brew_platform.errors import ConfigError
from brew_serve.engines.config import EngineConfig
from brew_train.config import TrainConfig

__all__ = ["RECIPES", "DemoConfig", "load_recipe"]

RECIPES = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig:
    """What a version must reach to be promoted, and how many slates the demo ranks over HTTP."""

    min_gap_closed: float | None = None  # share of the way from popularity to the best AUC, where that is known
    min_gain: float | None = None  # AUC above the popularity baseline
    slate: int = 8  # candidates in each request that is shown
    requests: int = 30  # requests that the latency figures are taken from


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """One run of the road."""

    source: str  # synthetic | movielens
    suite: str  # a task suite that ships, or a folder
    split: SplitConfig
    prompt: PromptFormat
    vocabulary_size: int = 2_000  # of the byte-level BPE; its 256 bytes and 6 control tokens included
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    release: ReleaseConfig = field(default_factory=ReleaseConfig)

    def __post_init__(self) -> None:
        if self.source not in ("synthetic", "movielens"):
            raise ConfigError(f"source is {self.source!r}; it is synthetic or movielens.")


def load_recipe(source: str, overrides: list[str]) -> DemoConfig:
    """The shipped recipe for `source`, with `key=value` overrides.

    Raises:
        ConfigError: there is no such recipe, or an override names an unknown key or a value of the wrong type.
    """
    path = RECIPES / f"demo_{source}.yaml"
    if not path.exists():
        known = sorted(file.stem.removeprefix("demo_") for file in RECIPES.glob("demo_*.yaml"))
        raise ConfigError(f"source {source!r} is unknown; choose one of {', '.join(known)}.")
    return load_config(DemoConfig, path, overrides=overrides)

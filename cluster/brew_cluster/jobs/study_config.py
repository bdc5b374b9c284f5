"""Recipes of studies: which versions are measured, what is varied, and how the result is drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from brew_cluster.jobs.recipe import RECIPES, find_recipe
from brew_cluster.releases.config import SECTIONS, TRAINING
from brew_cluster.releases.sweep import SweepRecipe, parse_sweep
from brew_eval.measurement import FIGURES, EvaluationConfig
from brew_eval.studies.instruction_following import InstructionConfig
from brew_eval.studies.needle import NeedleConfig
from brew_eval.studies.recall import RecallConfig
from brew_eval.studies.study_table import StudyPlot
from brew_eval.studies.throughput import ThroughputConfig
from brew_platform.config import load_config
from brew_platform.errors import ConfigError
from brew_platform.settings import Name, OneOf, Range, Settings, require_name
from brew_platform.yaml_files import read_yaml
from brew_serve.engines.config import EngineConfig

__all__ = ["PROBES", "ScoredFile", "StudyAxis", "StudyConfig", "StudyRecipe", "read_study", "shipped_studies"]

PROBES = ("instructions", "needle", "recall", "throughput")
BY = ("version", "task", "history", "time", "locale", "language")


@dataclass(frozen=True, kw_only=True)
class StudyAxis(Settings):
    """The place of a release on the axis.

    Args:
        of: `release`: none, each release is a point with its name. `setting`: the number of the setting `setting`.
            `tokens`: the tokens that the training step `step` trained on. `parameters`: of the exported model.
        setting: As in a sweep, `section.key`.
        step: A training step.
    """

    of: Annotated[str, OneOf(("release", "setting", "tokens", "parameters"))] = "release"
    setting: str | None = None
    step: Annotated[str, OneOf(TRAINING)] = "cpt"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.of == "setting") != (self.setting is not None):
            raise ConfigError("set axis.setting if, and only if, axis.of is setting.")


@dataclass(frozen=True, kw_only=True)
class ScoredFile(Settings):
    """Scored rows of a version, and its place on the axis."""

    rows: str  # Parquet file beside the report of a benchmark
    x: Annotated[float, Range()] | None = None


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Settings):
    """A study, without its sweep.

    The versions are those of a sweep, or `scored`, or `models`. Without a probe, their benchmarks are compared; a probe
    measures their models.
    """

    name: Name  # of the study
    question: str  # what it finds out, in a sentence
    paper: str = ""  # what the paper calls it
    axis: StudyAxis = field(default_factory=StudyAxis)  # place of the releases of a sweep
    # Figures of the benchmark
    figures: list[Annotated[str, OneOf(FIGURES)]] = field(default_factory=lambda: ["auc", "logloss"])
    tasks: list[str] = field(default_factory=list)  # tasks to show; empty: all
    by: Annotated[str, OneOf(BY)] = "version"  # what a point is: a version, or a slice or task of each version
    laws: bool = False  # whether scaling laws are fitted to auc, uauc and logloss
    plot: StudyPlot = field(default_factory=StudyPlot)  # how the points are drawn
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)  # settings of the intervals
    scored: dict[str, ScoredFile] = field(default_factory=dict)  # scored rows, by name of the version
    models: dict[str, str] = field(default_factory=dict)  # exports or versions of the registry, by name; for a probe
    data: str | None = None  # data folder of `models`
    registry_url: str = "runs/registry"  # store of the registry
    model: Name = "brew360"  # name of the model in the registry
    cache_folder: str = "runs/versions"  # fetched versions
    # Settings of the engine of a probe
    engine: EngineConfig = field(default_factory=EngineConfig)
    instructions: InstructionConfig | None = None  # this and the next three: a probe; at most one
    needle: NeedleConfig | None = None
    recall: RecallConfig | None = None
    throughput: ThroughputConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.probes) > 1:
            raise ConfigError(f"the study has the probes {', '.join(self.probes)}. Keep one, and give each a study.")
        if self.laws and (self.by != "version" or self.probes):
            raise ConfigError("laws is set, but scaling laws are of figures by version. Leave out `by` and the probe.")
        if self.models and (not self.probes or self.data is None):
            raise ConfigError(
                f"models are measured by a probe on a data folder. Set data, and one of {', '.join(PROBES)}."
            )

    @property
    def probes(self) -> list[str]:
        """Names of the probes that are set."""
        return [name for name in PROBES if getattr(self, name) is not None]


@dataclass(frozen=True, kw_only=True)
class StudyRecipe:
    """A study as it was written.

    Args:
        config: The study.
        sweep: Its releases; None: `scored` or `models` are the versions.
    """

    config: StudyConfig
    sweep: SweepRecipe | None = None


def read_study(recipe: str, overrides: Sequence[str] = ()) -> StudyRecipe:
    """Read the recipe of a study.

    It has the keys of `StudyConfig`, and `sweep` with the keys of the recipe of a sweep.

    Args:
        recipe: Path of a YAML file, or the name of one that ships.
        overrides: `key=value`, applied last. Those of a section of a release, such as `benchmark.rows=100`, and
            `from` are settings of every release of the sweep.

    Raises:
        ConfigError: There is no such recipe, a key is unknown, a value is out of its range, an override is of a setting
            that the sweep varies, or the versions are missing or are named in two ways.
    """
    path = find_recipe("study", recipe)
    content = dict(read_yaml(path))
    section = content.pop("sweep", None)
    of_releases = [text for text in overrides if _is_of_release(text)]
    others = [text for text in overrides if text not in of_releases]
    config = load_config(StudyConfig, {"name": path.stem.removeprefix("study_"), **content}, overrides=others)
    sources = {"sweep": section is not None, "scored": bool(config.scored), "models": bool(config.models)}
    if (count := sum(sources.values())) != 1:
        found = ", ".join(name for name, is_set in sources.items() if is_set) or "none"
        raise ConfigError(
            f"{path} names its versions {'in two ways' if count else 'in no way'} ({found}). Set exactly one of sweep, "
            f"scored and models={{name: folder}}."
        )
    if section is None:
        if of_releases:
            raise ConfigError(f"the override {of_releases[0]!r} is of a release, but {path} has no sweep.")
        return StudyRecipe(config=config)
    if not isinstance(section, Mapping):
        raise ConfigError(f"sweep in {path} is not a map. Write the keys of a sweep below it.")
    sweep = parse_sweep({"name": config.name, **section}, path)
    return StudyRecipe(config=config, sweep=_with_settings(sweep, of_releases, path))


def _is_of_release(override: str) -> bool:
    """Whether an override is of the releases: `from`, or of one of their sections. `data=folder` is of the study."""
    key = override.partition("=")[0].strip()
    section, dot, _ = key.partition(".")
    return key == "from" or (bool(dot) and section in SECTIONS)


def _with_settings(sweep: SweepRecipe, settings: Sequence[str], path: Path) -> SweepRecipe:
    """Return a sweep with settings of all its releases, unless they differ in one of them."""
    keys = [text.partition("=")[0].strip() for text in settings]
    for key in keys:
        values = {tuple(own for own in each if own.partition("=")[0] == key) for each in sweep.releases.values()}
        if len(values) > 1:
            raise ConfigError(
                f"{key} is what {path} varies, so it cannot be set for all releases. Change the sweep in the recipe."
            )
    releases = {name: [*own, *settings] for name, own in sweep.releases.items()}
    return SweepRecipe(name=sweep.name, recipe=sweep.recipe, releases=releases)


def shipped_studies() -> dict[str, StudyRecipe]:
    """Return the studies that ship, by the name that `brew360 study run` takes. Those without models are incomplete.

    Recipes that need `models=` are read with a placeholder.
    """
    found = {}
    for path in sorted(RECIPES.glob("study_*.yaml")):
        name = require_name("study", path.stem.removeprefix("study_"))
        content = read_yaml(path)
        needs = "sweep" not in content and "scored" not in content
        found[name] = read_study(name, ["models={model: MODEL}", "data=DATA"] if needs else [])
    return found

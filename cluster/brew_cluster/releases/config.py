"""The sections of a release recipe, and how the file is read."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from brew_cluster.jobs.recipe import find_recipe
from brew_platform.config import load_config
from brew_platform.errors import ConfigError
from brew_platform.registry.gates import Gate, ReleaseConfig
from brew_platform.settings import (
    Name,
    NonNegativeSeconds,
    PositiveFloat,
    PositiveInt,
    Range,
    Seconds,
    Settings,
    Share,
    require_name,
)
from brew_platform.yaml_files import override_text, parse_yaml, read_yaml

__all__ = [
    "COMMANDS",
    "SECTIONS",
    "TRAINING",
    "CanarySettings",
    "CommandSection",
    "PromoteSettings",
    "PublishSettings",
    "ReleaseRecipe",
    "read_release",
]

TRAINING = ("cpt", "ift", "sft")
_PART = re.compile(r"\w+")  # of a dotted key
COMMANDS = ("data", *TRAINING, "benchmark")  # sections with the settings of a command
SECTIONS = (*COMMANDS, "publish", "gates", "canary", "promote")  # in the order in which the steps run


@dataclass(frozen=True, kw_only=True)
class CommandSection:
    """A section with the settings of a command."""

    recipe: str | None = None  # of the command; its settings are applied after it
    folder: str | None = None  # of `data` only: a data set that exists, so that nothing is built
    settings: tuple[str, ...] = ()  # key=value


@dataclass(frozen=True, kw_only=True)
class PublishSettings(Settings):
    """Where the version is published."""

    registry: str = "runs/registry"  # store of the registry: a folder or s3://bucket/prefix
    model: Name = "brew360"  # name of the model there
    dataset: Name | None = None  # name of the data set in the registry, for the lineage; null: brew360
    author: str | None = None  # for the log of the registry; null: the user's name


@dataclass(frozen=True, kw_only=True)
class CanarySettings(Settings):
    """How a version is tried with a share of the traffic before it is promoted."""

    share: Annotated[float, Range(gt=0, le=1)] = 0.05  # of the traffic
    url: str | None = None  # address of the service; null: none runs, so that the step is skipped
    required: bool = False  # whether the release fails if no service answers at `url`
    requests: PositiveInt = 50  # rankings to request from the new version
    candidates: PositiveInt = 5  # of each request
    max_failed: Share = 0.0  # largest share of the requests that the new version does not answer
    max_p99_ms: PositiveFloat | None = None  # largest 99th percentile of the time of a request; null: any
    watch_seconds: NonNegativeSeconds = (
        0.0  # time with the canary's share of other callers' traffic, after the requests
    )
    start_seconds: Seconds = 600.0  # longest time until the service has started the version
    key_file: str | None = None  # file with the API key; null: the environment variable BREW360_API_KEY


@dataclass(frozen=True, kw_only=True)
class PromoteSettings(Settings):
    """Which alias is moved to the version."""

    alias: Name = "production"
    force_reason: str = ""  # promotes although there are no gates; kept in the log


@dataclass(frozen=True, kw_only=True)
class ReleaseRecipe:
    """A release as it was written.

    Args:
        name: Of the release.
        start: Folder of the model that training starts from; None: from scratch.
        commands: The sections of `COMMANDS`.
        gates: `release.gates` of the version; None: those of the data or of the training recipe.
        publish, canary, promote: The settings of these steps; None: the release does not have the step.
    """

    name: str
    start: str | None
    commands: Mapping[str, CommandSection]
    gates: Sequence[Gate] | None
    publish: PublishSettings | None
    canary: CanarySettings | None
    promote: PromoteSettings | None
    without: Sequence[str] = ()  # sections of the recipe that are left out
    overrides: Sequence[str] = field(default=())  # that the recipe was read with

    @property
    def sections(self) -> list[str]:
        """The sections that the release has, in the order of its steps."""
        others = {"publish": self.publish, "gates": self.gates, "canary": self.canary, "promote": self.promote}
        return [name for name in SECTIONS if name in self.commands or others.get(name) is not None]

    @property
    def settings(self) -> dict[str, str]:
        """The settings of all sections as they were written, by `section.key`; of each key the last one."""
        found = {} if self.start is None else {"from": self.start}
        found |= {"without": " ".join(self.without)} if self.without else {}
        for name, section in self.commands.items():
            named = {"recipe": section.recipe, "folder": section.folder}
            found |= {f"{name}.{key}": value for key, value in named.items() if value is not None}
            found |= {f"{name}.{key.strip()}": value for key, _, value in (s.partition("=") for s in section.settings)}
        for name in ("publish", "canary", "promote"):
            if (settings := getattr(self, name)) is not None:
                found |= {f"{name}.{key}": str(value) for key, value in asdict(settings).items() if value is not None}
        for gate in self.gates or ():
            found |= {f"gates.{gate.figure}.{rule}": f"{bound:g}" for rule, bound in gate.thresholds.items()}
        return found


def read_release(recipe: str, overrides: Sequence[str] = ()) -> ReleaseRecipe:
    """Read a release recipe.

    Args:
        recipe: Path of a YAML file, or the name of a recipe that ships.
        overrides: `section.key=value`, applied after the recipe. `without=[cpt, ift]` leaves sections out.

    Raises:
        ConfigError: There is no such recipe, a section or a key of publish, canary or promote is unknown, the sections
            are not in the order of the steps, or a step needs another one that the recipe leaves out.
    """
    path = find_recipe("release", recipe)
    content = dict(read_yaml(path))
    by_section = _split(overrides, path, content)
    without = _without(by_section.get("without", "[]"), content, path)
    for section in without:
        del content[section]
    known = ("name", "from", *SECTIONS)
    if unknown := [str(name) for name in content if name not in known]:
        raise ConfigError(f"{path} has the unknown section {unknown[0]}. Sections are {', '.join(known)}.")
    present = [name for name in content if name in SECTIONS]
    for before, after in pairwise(present):
        if SECTIONS.index(before) > SECTIONS.index(after):
            raise ConfigError(
                f"{path} has the section {after} after {before}, but steps run in the order {', '.join(SECTIONS)}. "
                f"Write the sections in this order."
            )
    for name in present:
        if name != "gates" and not isinstance(content[name] or {}, Mapping):
            raise ConfigError(f"{name} in {path} is not a section of `key: value` lines. Write the settings below it.")
    name = require_name("release", override_text(by_section.get("name", content.get("name", path.stem))))
    start = by_section.get("from", content.get("from"))

    def changed(section: str) -> Sequence[str]:
        return by_section.get(section, ())

    found = ReleaseRecipe(
        name=name,
        start=None if start is None else override_text(start).strip("\"'"),
        commands={name: _command(name, content[name] or {}, by_section) for name in present if name in COMMANDS},
        gates=_gates(content["gates"], by_section) if "gates" in content else None,
        publish=load_config(PublishSettings, content["publish"] or {}, overrides=changed("publish"), key="publish")
        if "publish" in present
        else None,
        canary=load_config(CanarySettings, content["canary"] or {}, overrides=changed("canary"), key="canary")
        if "canary" in present
        else None,
        promote=load_config(PromoteSettings, content["promote"] or {}, overrides=changed("promote"), key="promote")
        if "promote" in present
        else None,
        without=without,
        overrides=tuple(overrides),
    )
    _require_complete(found, path)
    return found


def _split(overrides: Sequence[str], path: Path, content: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the overrides by section, and the values of `name`, `from` and `without`."""
    found: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        section, dot, rest = key.strip().partition(".")
        if equals and not dot and section in ("name", "from", "without"):
            found[section] = value.strip()
        elif not equals or not dot or section not in SECTIONS:
            raise ConfigError(
                f"the override {override!r} is not of the form section.key=value. Write for example "
                f"sft.train.stages.0.steps=500; sections are {', '.join(SECTIONS)}."
            )
        elif section not in content:
            raise ConfigError(
                f"the override {override!r} is of the section {section}, which {path} does not have. Add the section "
                f"to the recipe."
            )
        else:
            found.setdefault(section, []).append(f"{rest}={value}")
    return found


def _without(text: str, content: Mapping[Any, Any], path: Path) -> list[str]:
    """Return the sections that are left out."""
    try:
        names = parse_yaml(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or any(name not in content or name not in SECTIONS for name in names):
        raise ConfigError(
            f"without={text} is not a list of sections of {path}. Write for example without=[cpt]; its sections are "
            f"{', '.join(name for name in content if name in SECTIONS)}."
        )
    return list(dict.fromkeys(names))


def _command(name: str, section: Mapping[Any, Any], by_section: Mapping[str, Any]) -> CommandSection:
    written = list(_flat(section))
    own = {"data": ("recipe", "folder"), "benchmark": ()}.get(name, ("recipe",))
    found: dict[str, str] = {"recipe": name} if name in TRAINING else {}
    settings: dict[str, str] = {}
    for setting in [*written, *by_section.get(name, [])]:
        key, _, value = setting.partition("=")
        if key.strip() in own:
            found[key.strip()] = value.strip().strip("\"'")
        else:
            settings.pop(key.strip(), None)  # the last one decides, in its place
            settings[key.strip()] = value
    if name == "data" and ("folder" in found) == ("recipe" in found or bool(settings)):
        raise ConfigError(
            "data has a `folder` beside settings, or neither a `recipe` nor a `folder`. Give a recipe with settings to "
            "build a data set, or the folder of one that exists."
        )
    return CommandSection(**found, settings=tuple(f"{key}={value}" for key, value in settings.items()))


def _flat(section: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Yield the settings of a section, each with its full key, so that the same setting has the same text."""
    for name, value in section.items():
        key = f"{prefix}{override_text(name)}"
        if isinstance(value, Mapping) and value and all(_PART.fullmatch(override_text(below)) for below in value):
            yield from _flat(value, f"{key}.")
        else:
            yield f"{key}={override_text(value)}"


def _gates(section: Any, by_section: Mapping[str, Any]) -> Sequence[Gate]:
    overrides = [f"gates.{override}" for override in by_section.get("gates", [])]
    gates = load_config(ReleaseConfig, {"gates": section or []}, overrides=overrides).gates
    if not gates:
        raise ConfigError("gates is empty. List gates such as {figure: post_like.auc, at_least: 0.6}, or leave it out.")
    return gates


def _require_complete(recipe: ReleaseRecipe, path: Path) -> None:
    """Raise a ConfigError if a step needs another step that the recipe leaves out."""
    sections = recipe.sections
    trains = any(name in TRAINING for name in sections)
    needs = {
        "publish": ("benchmark",) if recipe.gates is not None else (),
        "gates": ("benchmark", "publish"),
        "canary": ("publish",),
        "promote": ("publish",),
    }
    for name, others in needs.items():
        for other in others:
            if name in sections and other not in sections:
                why = "judge the figures of a benchmark" if other == "benchmark" else "need a published version"
                raise ConfigError(f"{path} has {name} without {other}: they {why}. Add the section {other}.")
    if not sections:
        raise ConfigError(f"{path} has no step. Add sections: {', '.join(SECTIONS)}.")
    if {"benchmark", "publish"} & {*sections} and not trains and recipe.start is None:
        raise ConfigError(f"{path} has no model: it has neither a training step nor `from`. Add one of them.")
    if (trains or "benchmark" in sections) and "data" not in sections:
        raise ConfigError(
            f"{path} has no section data. Add one with a recipe to build, or with `folder` of a data set that exists."
        )
    if recipe.promote is not None and recipe.promote.force_reason and recipe.gates is not None:
        raise ConfigError(f"{path} has gates and promote.force_reason, which ignores them. Leave out one of them.")

"""Task specs: what is asked on a surface, in which words, and which answers count as positive.

Owns: `TaskSpec` (one YAML file per task), `TaskSuite` (the tasks of one model with the templates of its profiles and
entities), and the rendering of a record into text. Does not own: token ids (`brew_data.prompts.compiler`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from brew_platform.config import load_config
from brew_platform.errors import ConfigError, UserError

__all__ = ["Action", "HistoryPolicy", "TaskSpec", "TaskSuite", "load_suite"]

SUITES = Path(__file__).parent / "suites"


@dataclass(frozen=True, kw_only=True)
class Action:
    """Something a member may do with an entity, and the word that says so to the model."""

    name: str  # as in the interactions table
    label: str  # the answer's word(s) in the prompt


@dataclass(frozen=True, kw_only=True)
class HistoryPolicy:
    """Which past interactions a prompt shows; always strictly earlier than the moment that is scored."""

    surfaces: list[str]  # interactions of these surfaces, in order of time
    max_interactions: int = 200  # the newest this many at most; the token budget may allow fewer
    hop: int = 32  # the oldest are dropped this many at a time, so that a member's next prompt keeps its prefix cached


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task: how the model is asked for the probability of each action on an entity of one surface."""

    name: str
    surface: str
    entity_type: str
    instruction: str  # opens the prompt
    question: list[str]  # opens every turn, before the entity: the first phrase whose fields the member's profile has
    actions: list[Action]
    positive: list[str]  # score = P(any of these actions)
    history: HistoryPolicy
    in_training: bool = True  # False: only ever asked of a finished model (T2)

    def __post_init__(self) -> None:
        names = [action.name for action in self.actions]
        labels = [action.label for action in self.actions]
        if len(names) < 2 or len(set(names)) < len(names) or len(set(labels)) < len(labels):
            raise ConfigError(f"task {self.name}: needs two or more actions with different names and labels.")
        if not self.positive or not set(self.positive) < set(names):
            raise ConfigError(
                f"task {self.name}: positive is {self.positive}; name some, not all, of {', '.join(names)}."
            )

    @cached_property
    def labels(self) -> dict[str, str]:
        """Label word by action name."""
        return {action.name: action.label for action in self.actions}


@dataclass(frozen=True, kw_only=True)
class TaskSuite:
    """The tasks that one model answers, with the templates that turn its tables into text.

    A template is a list of phrases such as "in {location}". Each phrase becomes a line of its own, which is what the
    tokenizer's merges stay within; `{skills:each}` makes a line of each part of "a, b, c"; a phrase whose field is
    absent is left out.
    """

    name: str
    profile: list[str]
    entities: dict[str, list[str]]  # phrases by entity type
    tasks: list[TaskSpec] = field(default_factory=list)

    def __post_init__(self) -> None:
        surfaces = [task.surface for task in self.tasks]
        if len(set(surfaces)) < len(surfaces):
            raise ConfigError(f"suite {self.name}: two tasks share a surface; a past interaction needs one task.")
        for task in self.tasks:
            if task.entity_type not in self.entities:
                raise ConfigError(f"task {task.name}: suite {self.name} has no template for {task.entity_type!r}.")
            if unknown := set(task.history.surfaces) - set(surfaces):
                raise ConfigError(f"task {task.name}: history names unknown surfaces {sorted(unknown)}.")

    def task(self, name: str) -> TaskSpec:
        """The task of that name.

        Raises:
            UserError: there is none; the message lists those that exist.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        raise UserError(f"there is no task {name!r}; this model has {', '.join(task.name for task in self.tasks)}.")

    @cached_property
    def by_surface(self) -> dict[str, TaskSpec]:
        """The task that asks about each surface's entities."""
        return {task.surface: task for task in self.tasks}

    def question_text(
        self, task: TaskSpec, profile: Mapping[str, object], entity_type: str, fields: Mapping[str, object]
    ) -> str:
        """What a turn of `task` asks, the entity included, one phrase a line.

        A question may repeat what matters most of the profile: a match of two words that stand next to each other is
        learned long before one across hundreds of tokens.

        Raises:
            UserError: the entity is of another type than the task asks about.
        """
        if entity_type != task.entity_type:
            raise UserError(f"task {task.name} ranks entities of type {task.entity_type!r}, not {entity_type!r}.")
        return _lines(_filled(task.question, profile)[:1]) + self.entity_text(entity_type, fields)

    def profile_text(self, profile: Mapping[str, object]) -> str:
        """A member's profile in words, one phrase a line."""
        return _lines(_filled(self.profile, profile))

    def entity_text(self, entity_type: str, fields: Mapping[str, object]) -> str:
        """An entity in words, one phrase a line.

        Raises:
            UserError: the suite has no template for this type.
        """
        if entity_type not in self.entities:
            raise UserError(f"entity type {entity_type!r} is unknown; this model reads {', '.join(self.entities)}.")
        return _lines(_filled(self.entities[entity_type], fields))

    def to_dict(self) -> dict:
        """Plain data that `from_dict` reads back; what the registry stores beside a model."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping) -> "TaskSuite":
        """The suite that `to_dict` wrote.

        Raises:
            ConfigError: a key is unknown or of the wrong type.
        """
        return load_config(TaskSuite, data)


class _Value(str):
    """A field in a phrase; `{field:each}` writes each part of "a, b, c" on a line of its own."""

    def __format__(self, spec: str) -> str:
        return self.replace(", ", "\n") if spec == "each" else str(self)


def _filled(phrases: list[str], values: Mapping[str, object]) -> list[str]:
    """The phrases whose fields are all present, filled in."""
    # A line break inside a field would forge a phrase.
    present = {key: _Value(" ".join(str(value).split())) for key, value in values.items() if value not in (None, "")}
    lines: list[str] = []
    for phrase in phrases:
        try:
            lines.append(phrase.format_map(present))
        except KeyError:
            continue
    return lines


def _lines(phrases: list[str]) -> str:
    return "".join(f"{phrase}\n" for phrase in phrases if phrase)


def load_suite(name_or_folder: str | Path) -> TaskSuite:
    """A suite from a folder with `suite.yaml` (templates) and `tasks/*.yaml` (one task each).

    Args:
        name_or_folder: a suite that ships (`economic_graph`, `movielens`) or a folder of your own.

    Raises:
        ConfigError: there is no such suite, or a file in it is malformed.
    """
    folder = SUITES / str(name_or_folder)
    if not (folder / "suite.yaml").exists():
        folder = Path(name_or_folder)
    if not (folder / "suite.yaml").exists():
        shipped = ", ".join(sorted(path.name for path in SUITES.iterdir() if path.is_dir()))
        raise ConfigError(
            f"suite {name_or_folder!r} is neither one that ships ({shipped}) nor a folder with suite.yaml."
        )
    suite = load_config(TaskSuite, folder / "suite.yaml")
    tasks = [load_config(TaskSpec, path) for path in sorted((folder / "tasks").glob("*.yaml"))]
    if not tasks:
        raise ConfigError(f"suite {suite.name}: {folder / 'tasks'} holds no task file (*.yaml).")
    return TaskSuite(name=suite.name, profile=suite.profile, entities=suite.entities, tasks=tasks)

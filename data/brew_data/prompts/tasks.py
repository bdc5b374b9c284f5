"""Surfaces, their actions, and the tasks that predict them.

A surface defines how a past interaction is rendered. A task defines what is predicted for an entity of a surface.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite_format import ADDED
from brew_platform.errors import ConfigError, UserError
from brew_platform.settings import PositiveInt, Settings

__all__ = ["Action", "Outcome", "Surface", "TaskSpec", "check_labels", "check_outcomes", "label_forms"]


@dataclass(frozen=True, kw_only=True)
class Action(Settings):
    """An action that a member can take on an entity.

    Args:
        name: The value in column `action` of the interactions table.
        label: The text of the action in a prompt.
        alternatives: Other texts. All actions of a surface have as many; a training document uses the label of each
            action, or the n-th alternative of each. They are only drawn if the instruction lists them, with
            `{{ labels }}` or `{{ actions }}`.
    """

    name: str
    label: str
    alternatives: list[str] = field(default_factory=list, metadata=ADDED)


@dataclass(frozen=True, kw_only=True)
class Surface(Settings):
    """How past interactions on one surface are rendered.

    Args:
        name: The value in column `surface` of the interactions table.
        entity_type: The type of the entities that the surface shows.
        question: Templates of a turn, with fields of the profile. `{{ entity }}` places the entity; without it, the
            entity follows on the next line. The turn uses the first template whose fields are all present.
        actions: The actions that members can take on the surface.
        question_alternatives: Other questions, each a list as `question`. If the fields of none of its templates are
            present, the turn uses `question`.

    Raises:
        ConfigError: There are fewer than two actions, two actions share a name or a label, a label is blank, or the
            actions do not have equally many alternatives.
    """

    name: str
    entity_type: str
    question: list[str]
    actions: list[Action]
    question_alternatives: list[list[str]] = field(default_factory=list, metadata=ADDED)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_labels(f"surface {self.name}", "actions", self.actions)

    def label(self, action: str) -> str:
        """Return the label of an action.

        Raises:
            UserError: The surface has no such action.
        """
        for known in self.actions:
            if known.name == action:
                return known.label
        known_names = ", ".join(known.name for known in self.actions)
        raise UserError(f"action {action!r} is unknown on surface {self.name!r}; known are {known_names}.")


@dataclass(frozen=True, kw_only=True)
class Outcome(Settings):
    """One of the possible answers of a task.

    Args:
        name: The name of the outcome in `TaskSpec.positive` and in responses.
        label: The text that the model predicts.
        actions: The surface's actions that count as this outcome.
        alternatives: As in `Action`.
    """

    name: str
    label: str
    actions: list[str]
    alternatives: list[str] = field(default_factory=list, metadata=ADDED)


@dataclass(frozen=True, kw_only=True)
class TaskSpec(Settings):
    """A task: a prediction for entities of one surface.

    Args:
        name: The name of the task in requests.
        surface: The surface whose entities are scored.
        instruction: The template of the first text of the prompt. `{{ labels }}` lists the labels of the outcomes, and
            `{{ actions }}` those of each surface of the history, as in "jobs: apply, skip; feed: like, skip".
        history: Which past interactions the prompt shows.
        positive: Names of outcomes. The score of an entity is the probability that any of them occurs.
        question: Like `Surface.question`, for the candidate only; None: the question of the surface.
        outcomes: The answers to predict; None: one outcome per action of the surface, with its name and label.
        in_training: False: the task has no training documents and only serves to evaluate a finished model.
        examples_per_member: The maximum number of training documents per member, the newest interactions first.
            Only tasks with their own question, outcomes or history options use it; others train on whole histories.
        instruction_alternatives: Other instructions.
        question_alternatives: As in `Surface`; only with a question of the task's own.

    Raises:
        ConfigError: `examples_per_member` is less than 1, or `question_alternatives` is set without `question`.
    """

    name: str
    surface: str
    instruction: str
    history: HistoryPolicy
    positive: list[str]
    question: list[str] | None = None
    outcomes: list[Outcome] | None = None
    in_training: bool = True
    examples_per_member: PositiveInt = 8
    instruction_alternatives: list[str] = field(default_factory=list, metadata=ADDED)
    question_alternatives: list[list[str]] = field(default_factory=list, metadata=ADDED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.question_alternatives and self.question is None:
            raise ConfigError(
                f"question_alternatives of task {self.name} need a question of its own, for serving. Set `question`, "
                f"or add the alternatives to surface {self.surface}."
            )

    @property
    def follows_surface(self) -> bool:
        """Whether the task uses the question and the actions of its surface unchanged."""
        return self.question is None and self.outcomes is None

    @property
    def trains_on_examples(self) -> bool:
        """Whether each trained interaction is a document of its own, instead of one turn of a whole history."""
        return not (self.follows_surface and self.history.is_plain)


def label_forms(labelled: Sequence[Action] | Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Return the labels of each form; all have equally many alternatives (`check_labels`)."""
    return list(zip(*([item.label, *item.alternatives] for item in labelled), strict=True))


def check_labels(owner: str, kind: str, labelled: Sequence[Action] | Sequence[Outcome]) -> None:
    """Refuse fewer than two labels, blank or equal ones, and alternatives that are not complete sets of labels."""
    counts = {item.name: len(item.alternatives) for item in labelled}
    if len(set(counts.values())) > 1:
        raise ConfigError(
            f"{owner}: its {kind} have different numbers of alternatives ("
            f"{', '.join(f'{name} {count}' for name, count in counts.items())}). The n-th alternatives of all {kind} "
            f"replace their labels together: give each as many."
        )
    names = [item.name for item in labelled]
    if len(labelled) < 2 or not _are_distinct(names) or not all(map(_are_distinct, label_forms(labelled))):
        raise ConfigError(
            f"{owner}: needs two or more {kind} with different names and labels, none of them blank; also the n-th "
            f"alternatives of all {kind}."
        )


def check_outcomes(task: TaskSpec, outcomes: Sequence[Outcome], actions: Sequence[str]) -> None:
    """Check the outcomes of a task against the actions of its surface.

    Args:
        task: The task.
        outcomes: Its own outcomes, or those of its surface's actions.
        actions: The names of the surface's actions.

    Raises:
        ConfigError: As `check_labels`; `positive` names none, all or unknown outcomes; or the outcomes do not cover
            each action exactly once.
    """
    check_labels(f"task {task.name}", "outcomes", outcomes)
    names = [outcome.name for outcome in outcomes]
    if not task.positive or not set(task.positive) < set(names):
        raise ConfigError(f"task {task.name}: positive is {task.positive}; name some, not all, of {', '.join(names)}.")
    covered = [action for outcome in outcomes for action in outcome.actions]
    if unknown := sorted(set(covered) - set(actions)):
        raise ConfigError(
            f"task {task.name}: outcomes name actions {', '.join(unknown)}, which surface {task.surface} does not "
            f"have. Use its actions: {', '.join(actions)}."
        )
    if missing := [action for action in actions if action not in covered]:
        raise ConfigError(
            f"task {task.name}: actions {', '.join(missing)} of surface {task.surface} belong to no outcome, so "
            f"these interactions have no label. Add each of them to one outcome."
        )
    if repeated := sorted({action for action in covered if covered.count(action) > 1}):
        raise ConfigError(
            f"task {task.name}: actions {', '.join(repeated)} belong to several outcomes, so the label is "
            f"ambiguous. Keep each of them in one outcome."
        )


def _are_distinct(texts: Sequence[str]) -> bool:
    stripped = [text.strip() for text in texts]
    return all(stripped) and len(set(stripped)) == len(stripped)

"""The task suite: surfaces and tasks (`brew_data.prompts.tasks`), and the templates that render records as text.

Several tasks can share a surface, and a task can define its outcomes as sets of the surface's actions.

Phrases, questions, instructions and labels can have alternatives, which training documents use in turn
(`brew_data.prompts.variation`). Serving uses the first form of everything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

from brew_data.prompts.fields import field_values
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.instructions import ACTIONS, LABELS, compile_instructions, render_instruction
from brew_data.prompts.phrases import Phrase, check_literal
from brew_data.prompts.questions import Question, compile_questions, render_first
from brew_data.prompts.suite_format import FORMAT_VERSION, check_format_version, plain_data
from brew_data.prompts.tasks import Outcome, Surface, TaskSpec, check_outcomes, label_forms
from brew_data.prompts.templates import RecordTemplate
from brew_data.prompts.variation import FIRST, Variation
from brew_platform.config import load_config
from brew_platform.errors import ConfigError, UserError
from brew_platform.settings import PositiveInt, Settings

__all__ = ["TaskSuite"]


@dataclass(frozen=True, kw_only=True)
class TaskSuite(Settings):
    """The surfaces and tasks of one model, with the templates that render its tables as text.

    Templates are Jinja2 (`brew_data.prompts.phrases`). They are compiled and checked on construction.

    Args:
        name: The name of the suite.
        format_version: `FORMAT_VERSION`.
        profile: The template of member profiles.
        entities: Templates by entity type.
        surfaces: The surfaces, which define how past interactions are rendered.
        tasks: The tasks, which define what is predicted.

    Raises:
        ConfigError: The format version is not `FORMAT_VERSION`, a template is malformed or uses a field that is not
            declared, a name is repeated, a task or surface refers to an unknown name, or the outcomes of a task do not
            cover each action of its surface exactly once.
    """

    name: str
    format_version: PositiveInt = FORMAT_VERSION
    profile: RecordTemplate
    entities: dict[str, RecordTemplate]
    surfaces: list[Surface]
    tasks: list[TaskSpec] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_format_version(self.name, self.format_version)
        _check_distinct(f"suite {self.name}", "surfaces", [surface.name for surface in self.surfaces])
        _check_distinct(f"suite {self.name}", "tasks", [task.name for task in self.tasks])
        for surface in self.surfaces:
            if surface.entity_type not in self.entities:
                raise ConfigError(
                    f"surface {surface.name}: suite {self.name} has no template for entity type "
                    f"{surface.entity_type!r}. Add it to `entities`; known are {', '.join(self.entities)}."
                )
        for task in self.tasks:
            self._check_surfaces(task.name, [task.surface])
        for task in self.tasks:
            actions = [action.name for action in self.surface(task.surface).actions]
            check_outcomes(task, self.outcomes(task), actions)
        for task in self.tasks:
            self.check_history(task.name, task.history)
        self._check_templates()

    def _check_surfaces(self, task: str, names: Sequence[str]) -> None:
        known = {surface.name for surface in self.surfaces}
        if unknown := sorted(set(names) - known):
            raise ConfigError(
                f"task {task}: surfaces {', '.join(unknown)} are unknown. Add them to `surfaces`; known are "
                f"{', '.join(sorted(known))}."
            )

    def check_history(self, task: str, policy: HistoryPolicy) -> None:
        """Check that the suite can apply a history policy.

        Args:
            task: The name of the task that uses the policy, for messages.
            policy: The policy.

        Raises:
            ConfigError: A surface is unknown, `keep` names an action that none of the surfaces has, or
                `positives_only` includes a surface without positive actions.
        """
        self._check_surfaces(task, policy.surfaces)
        actions = {action.name for name in policy.surfaces for action in self.surface(name).actions}
        if unknown := sorted(set(policy.keep) - actions):
            raise ConfigError(
                f"task {task}: history.keep names actions {', '.join(unknown)}, which none of its surfaces has. Use "
                f"{', '.join(sorted(actions))}."
            )
        without = sorted(name for name in policy.surfaces if not self.positives[name])
        if policy.positives_only and without:
            raise ConfigError(
                f"task {task}: history.positives_only would hide everything on surfaces {', '.join(without)}, which "
                f"have no task and therefore no positive action. Remove these surfaces from the history."
            )

    def _check_templates(self) -> None:
        place = f"suite {self.name}"
        self.profile.check(f"{place}, profile")
        for entity_type, template in self.entities.items():
            if not template.phrases:
                raise ConfigError(f"{place}, entities.{entity_type} has no phrases. Add one for each field to show.")
            template.check(f"{place}, entities.{entity_type}")
        for surface in self.surfaces:
            for action in surface.actions:
                for label in (action.label, *action.alternatives):
                    check_literal(label, f"{place}, surfaces.{surface.name}, label of {action.name}")
        for task in self.tasks:
            for outcome in task.outcomes or []:
                for label in (outcome.label, *outcome.alternatives):
                    check_literal(label, f"{place}, tasks.{task.name}, label of {outcome.name}")
        assert len(self._questions) == len(self.surfaces) + len(self.tasks)  # compiles and checks them
        assert len(self._instructions) == len(self.tasks)  # as above

    def surface(self, name: str) -> Surface:
        """Return the surface with this name.

        Raises:
            UserError: The suite has no such surface; the message lists the known ones.
        """
        for surface in self.surfaces:
            if surface.name == name:
                return surface
        known = ", ".join(surface.name for surface in self.surfaces)
        raise UserError(f"surface {name!r} is unknown; this model knows {known}.")

    def task(self, name: str) -> TaskSpec:
        """Return the task with this name.

        Raises:
            UserError: The suite has no such task; the message lists the known ones.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        raise UserError(f"task {name!r} is unknown; this model knows {', '.join(task.name for task in self.tasks)}.")

    def tasks_of(self, surface: str) -> list[TaskSpec]:
        """Return the tasks that score entities of a surface; the list can be empty."""
        return [task for task in self.tasks if task.surface == surface]

    def outcomes(self, task: TaskSpec) -> list[Outcome]:
        """Return the outcomes of a task: its own, or one per action of its surface."""
        return self._outcomes[task.name]

    def outcome(self, task: TaskSpec, action: str) -> Outcome:
        """Return the task's outcome that contains an action of its surface.

        Raises:
            UserError: The surface has no such action.
        """
        self.surface(task.surface).label(action)  # refuses an unknown action
        return next(outcome for outcome in self.outcomes(task) if action in outcome.actions)

    def positive_actions(self, task: TaskSpec) -> list[str]:
        """Return the actions of the task's positive outcomes."""
        return [
            action for outcome in self.outcomes(task) if outcome.name in task.positive for action in outcome.actions
        ]

    @cached_property
    def trained_surfaces(self) -> frozenset[str]:
        """The names of the surfaces with a task in training; training shows nothing of the others."""
        return frozenset(task.surface for task in self.tasks if task.in_training)

    @cached_property
    def positives(self) -> dict[str, frozenset[str]]:
        """The actions of each surface that are positive for one of its tasks, by name of the surface."""
        return {
            surface.name: frozenset(
                action for task in self.tasks_of(surface.name) for action in self.positive_actions(task)
            )
            for surface in self.surfaces
        }

    @cached_property
    def _outcomes(self) -> dict[str, list[Outcome]]:
        return {
            task.name: task.outcomes
            if task.outcomes is not None
            else [
                Outcome(name=action.name, label=action.label, actions=[action.name], alternatives=action.alternatives)
                for action in self.surface(task.surface).actions
            ]
            for task in self.tasks
        }

    @cached_property
    def _questions(self) -> dict[tuple[type, str], list[list[Question]]]:
        """Forms of the questions by kind and name of their source; a task without its own has those of its surface."""

        def compiled(source: TaskSpec | Surface, question: Sequence[str]) -> list[list[Question]]:
            place = f"suite {self.name}, {_part(source)}"
            profile = self.profile
            return compile_questions(question, source.question_alternatives, profile.fields, place, profile.quantiles)

        questions: dict[tuple[type, str], list[list[Question]]] = {
            (Surface, surface.name): compiled(surface, surface.question) for surface in self.surfaces
        }
        for task in self.tasks:
            questions[TaskSpec, task.name] = (
                questions[Surface, task.surface] if task.question is None else compiled(task, task.question)
            )
        return questions

    @cached_property
    def _instructions(self) -> dict[str, list[Phrase]]:
        """The forms of each task's instruction."""
        place = f"suite {self.name}"
        return {task.name: compile_instructions(task, f"{place}, {_part(task)}.instruction") for task in self.tasks}

    def instruction(self, task: TaskSpec, variation: Variation = FIRST) -> str:
        """Render the instruction of a task, in the form that a document uses."""
        phrase = variation.pick(f"{_part(task)}.instruction", self._instructions[task.name])
        return self._render_instruction(
            task, phrase, lambda source: self.label_forms(source)[self.label_form(source, variation)]
        )

    def longest_instructions(self, task: TaskSpec) -> list[str]:
        """Return each form of the instruction of a task, with the longest forms of its labels."""

        def longest(source: TaskSpec | Surface) -> tuple[str, ...]:
            return max(self.label_forms(source), key=lambda labels: sum(map(len, labels)))

        return [self._render_instruction(task, phrase, longest) for phrase in self._instructions[task.name]]

    def _render_instruction(
        self, task: TaskSpec, phrase: Phrase, labels: Callable[[TaskSpec | Surface], Sequence[str]]
    ) -> str:
        history = ((name, labels(self.surface(name))) for name in task.history.surfaces)
        return render_instruction(phrase, labels(self._labels_owner(task)), history)

    def announced(self, task: TaskSpec, variation: Variation) -> list[TaskSpec | Surface]:
        """Return the sources whose labels the instruction of a task lists: only these can differ from the first ones.

        A task without its own outcomes uses the labels of its surface.
        """
        phrase = variation.pick(f"{_part(task)}.instruction", self._instructions[task.name])
        sources: list[TaskSpec | Surface] = []
        if LABELS in phrase.fields:
            sources.append(self._labels_owner(task))
        if ACTIONS in phrase.fields:
            sources += map(self.surface, task.history.surfaces)
        return sources

    def _labels_owner(self, task: TaskSpec) -> TaskSpec | Surface:
        return self.surface(task.surface) if task.outcomes is None else task

    def label_form(self, source: TaskSpec | Surface, variation: Variation) -> int:
        """Return the place in `label_forms` of the labels that a document uses.

        Args:
            source: A surface, or a task with its own outcomes.
            variation: The forms of the document.
        """
        return variation.pick(f"{_part(source)}.labels", range(len(self.label_forms(source))))

    def label_forms(self, source: TaskSpec | Surface) -> list[tuple[str, ...]]:
        """Return the labels of the outcomes of a task or of the actions of a surface, in all forms, the first first."""
        labelled = source.actions if isinstance(source, Surface) else self.outcomes(source)
        return label_forms(labelled)

    def question_frame(
        self,
        source: TaskSpec | Surface,
        profile: Mapping[str, str],
        *,
        has_entity: bool,
        variation: Variation = FIRST,
    ) -> tuple[str, str]:
        """Render the question of a turn: the text before and after the entity.

        Args:
            source: A task for a candidate, a surface for a past interaction.
            profile: The member's fields, from `field_values`.
            has_entity: False: the entity has no text, so questions that place it are passed over.
            variation: The forms of the document.
        """
        forms = self._questions[type(source), source.name]
        part = _part(source)
        if isinstance(source, TaskSpec) and source.question is None:
            part = f"surfaces.{source.surface}"  # the candidate has the form of past turns
        return render_first(variation.pick(f"{part}.question", forms), profile, has_entity=has_entity)

    def question_frames(self, source: TaskSpec | Surface) -> list[tuple[str, str]]:
        """Render the question of a turn in all forms, as `question_frame` of a profile that has all fields."""
        profile = dict.fromkeys(self.profile.fields, "x")
        return [render_first(form, profile, has_entity=True) for form in self._questions[type(source), source.name]]

    def check_entity_type(self, source: TaskSpec | Surface, entity_type: str) -> None:
        """Refuse an entity of another type than the surface of `source` shows.

        Raises:
            UserError: The types differ.
        """
        surface = source if isinstance(source, Surface) else self.surface(source.surface)
        if entity_type != surface.entity_type:
            kind = "surface" if isinstance(source, Surface) else "task"
            raise UserError(
                f"{kind} {source.name} {'shows' if kind == 'surface' else 'ranks'} entities of type "
                f"{surface.entity_type!r}, not {entity_type!r}."
            )

    def question_text(
        self, source: TaskSpec | Surface, profile: Mapping[str, object], entity_type: str, fields: Mapping[str, object]
    ) -> str:
        """Render the question of a turn with its entity, without any budget.

        A question can repeat an important field of the profile, because the model learns to compare adjacent words
        faster than words that are hundreds of tokens apart.

        Args:
            source: A task for a candidate, a surface for a past interaction.
            profile: The member's fields by name.
            entity_type: The type of the entity.
            fields: The entity's fields by name.

        Raises:
            UserError: The surface shows entities of another type, or as in `field_values`.
        """
        self.check_entity_type(source, entity_type)
        entity = self.entity_text(entity_type, fields)
        before, after = self.question_frame(source, field_values(profile), has_entity=bool(entity))
        return f"{before}{entity}{after}"

    def profile_text(self, profile: Mapping[str, object]) -> str:
        """Render a member's profile, without any budget."""
        return self.profile.render(field_values(profile))

    def entity_text(self, entity_type: str, fields: Mapping[str, object]) -> str:
        """Render an entity, without any budget.

        Raises:
            UserError: The suite has no template for this type, or as in `field_values`.
        """
        if entity_type not in self.entities:
            raise UserError(f"entity type {entity_type!r} is unknown; this model reads {', '.join(self.entities)}.")
        return self.entities[entity_type].render(field_values(fields))

    @property
    def percentiles(self) -> dict[str | None, frozenset[str]]:
        """The fields that are shown as percentiles, by type of entity; None: those of the profile."""
        forms = chain.from_iterable(self._questions.values())
        in_questions = (question.percentiles for question in chain.from_iterable(forms))
        return {
            None: self.profile.percentiles.union(*in_questions),
            **{name: template.percentiles for name, template in self.entities.items()},
        }

    def to_dict(self) -> dict:
        """Return plain data that `from_dict` reads; the registry stores it with each model.

        Fields that were added to the format (`ADDED`) are left out while they have their defaults.
        """
        plain: dict = plain_data(self)
        return plain

    @staticmethod
    def from_dict(data: Mapping) -> "TaskSuite":
        """Read a suite that `to_dict` wrote.

        Raises:
            ConfigError: The format version is not `FORMAT_VERSION`, or a key is unknown or of the wrong type.
        """
        check_format_version(str(data.get("name")), data.get("format_version"))
        return load_config(TaskSuite, data)


def _check_distinct(owner: str, kind: str, names: list[str]) -> None:
    if not all(name.strip() for name in names):
        raise ConfigError(f"{owner}: the name of one of its {kind} is blank. Name it.")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{owner}: {kind} {', '.join(repeated)} occur more than once. Rename or remove the copies.")


def _part(source: TaskSpec | Surface) -> str:
    """Return the name of a part of a suite, for messages and draws."""
    return f"{'surfaces' if isinstance(source, Surface) else 'tasks'}.{source.name}"

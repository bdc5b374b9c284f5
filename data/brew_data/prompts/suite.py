"""Task suites: surfaces and tasks (`brew_data.prompts.tasks`), and the templates that render records as text.

Several tasks can share a surface, and a task can define its outcomes as sets of the surface's actions.

Phrases, questions, instructions and labels can have alternatives, which training documents use in turn
(`brew_data.prompts.variation`). Serving uses the first form of everything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from brew_data.prompts.fields import field_values
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.tasks import Outcome, Surface, TaskSpec, check_labels, label_forms
from brew_data.prompts.templates import Phrase, Question, RecordTemplate, check_literal
from brew_data.prompts.variation import FIRST, Variation
from brew_platform.config import load_config, parse_yaml
from brew_platform.errors import ConfigError, UserError
from brew_platform.settings import PositiveInt, Settings

__all__ = ["FORMAT_VERSION", "SUITES", "TaskSuite", "changed_suite", "load_suite"]

FORMAT_VERSION = 3  # of suites; version 2 had other templates, version 1 had no field `format_version` and no surfaces
LABELS, ACTIONS = "labels", "actions"  # the fields of an instruction
SUITES = Path(__file__).parent / "suites"


@dataclass(frozen=True, kw_only=True)
class TaskSuite(Settings):
    """The surfaces and tasks of one model, with the templates that render its tables as text.

    Templates are Jinja2 (`brew_data.prompts.templates`). They are compiled and checked on construction.

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
        _check_format_version(self.name, self.format_version)
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
            self._check_outcomes(task)
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
        for instructions in self._instructions.values():
            for instruction in instructions:
                instruction.check_text()

    def _check_outcomes(self, task: TaskSpec) -> None:
        outcomes = self.outcomes(task)
        check_labels(f"task {task.name}", "outcomes", outcomes)
        names = [outcome.name for outcome in outcomes]
        if not task.positive or not set(task.positive) < set(names):
            raise ConfigError(
                f"task {task.name}: positive is {task.positive}; name some, not all, of {', '.join(names)}."
            )
        actions = [action.name for action in self.surface(task.surface).actions]
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
        questions: dict[tuple[type, str], list[list[Question]]] = {
            (Surface, surface.name): self._compile_questions(surface, surface.question) for surface in self.surfaces
        }
        for task in self.tasks:
            questions[TaskSpec, task.name] = (
                questions[Surface, task.surface]
                if task.question is None
                else self._compile_questions(task, task.question)
            )
        return questions

    def _compile_questions(self, source: TaskSpec | Surface, question: Sequence[str]) -> list[list[Question]]:
        """Compile `question` and its alternatives. Each alternative ends with `question`, for absent fields."""
        place = f"suite {self.name}, {_part(source)}"

        def compiled(templates: Sequence[str], name: str) -> list[Question]:
            return [
                Question(template, self.profile.fields, f"{place}, {name} {number}", self.profile.quantiles)
                for number, template in enumerate(templates, start=1)
            ]

        first = compiled(question, "question")
        others = enumerate(source.question_alternatives, start=1)
        return [first, *([*compiled(other, f"question alternative {n}, template"), *first] for n, other in others)]

    @cached_property
    def _instructions(self) -> dict[str, list[Phrase]]:
        """The forms of each task's instruction."""
        return {task.name: self._compile_instructions(task) for task in self.tasks}

    def _compile_instructions(self, task: TaskSpec) -> list[Phrase]:
        names = [
            "instruction",
            *(f"instruction alternative {n + 1}" for n in range(len(task.instruction_alternatives))),
        ]
        return [
            Phrase(text, [LABELS, ACTIONS], f"suite {self.name}, {_part(task)}.{name}")
            for name, text in zip(names, [task.instruction, *task.instruction_alternatives], strict=True)
        ]

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
        surfaces = map(self.surface, task.history.surfaces)
        values = {
            LABELS: ", ".join(labels(self._labels_owner(task))),
            ACTIONS: "; ".join(
                f"{surface.name.replace('_', ' ')}: {', '.join(labels(surface))}" for surface in surfaces
            ),
        }
        return phrase.render(values) or ""

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
        return _first_frame(variation.pick(f"{part}.question", forms), profile, has_entity=has_entity)

    def question_frames(self, source: TaskSpec | Surface) -> list[tuple[str, str]]:
        """Render the question of a turn in all forms, as `question_frame` of a profile that has all fields."""
        profile = dict.fromkeys(self.profile.fields, "x")
        return [_first_frame(form, profile, has_entity=True) for form in self._questions[type(source), source.name]]

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
    def missing_quantiles(self) -> list[tuple[str | None, str]]:
        """The fields that a template shows as percentiles and whose quantiles are not known.

        Each is the type of an entity, or None for the profile, and the name of the field.
        """
        forms = chain.from_iterable(self._questions.values())
        in_questions = frozenset(chain.from_iterable(q.percentiles for q in chain.from_iterable(forms)))
        used: list[tuple[str | None, RecordTemplate, frozenset[str]]] = [
            (None, self.profile, self.profile.percentiles | in_questions)
        ]
        used += [(name, template, template.percentiles) for name, template in self.entities.items()]
        return [
            (name, field_name)
            for name, template, names in used
            for field_name in sorted(names)
            if field_name not in template.quantiles
        ]

    def with_quantiles(self, quantiles: Mapping[tuple[str | None, str], list[float]]) -> "TaskSuite":
        """Return the suite with quantiles for the filter `percentile`.

        Args:
            quantiles: From `percentile_cuts`, by the keys of `missing_quantiles`.
        """

        def completed(template: RecordTemplate, name: str | None) -> RecordTemplate:
            found = {key[1]: cuts for key, cuts in quantiles.items() if key[0] == name}
            return replace(template, quantiles=template.quantiles | found)

        entities = {name: completed(template, name) for name, template in self.entities.items()}
        return replace(self, profile=completed(self.profile, None), entities=entities)

    def to_dict(self) -> dict:
        """Return plain data that `from_dict` reads; the registry stores it with each model.

        Fields that were added to the format (`ADDED`) are left out while they have their defaults.
        """
        plain: dict = _plain(self)
        return plain

    @staticmethod
    def from_dict(data: Mapping) -> "TaskSuite":
        """Read a suite that `to_dict` wrote.

        Raises:
            ConfigError: The format version is not `FORMAT_VERSION`, or a key is unknown or of the wrong type.
        """
        _check_format_version(str(data.get("name")), data.get("format_version"))
        return load_config(TaskSuite, data)


def _check_format_version(suite: str, version: object) -> None:
    if version != FORMAT_VERSION:
        found = "no format_version" if version is None else f"format_version {version!r}"
        raise ConfigError(
            f"suite {suite} has {found}, but this release reads format_version {FORMAT_VERSION} only. There, templates "
            f"are Jinja2 ({{{{ title }}}} instead of {{title}}, {{{{ skills | lines }}}} instead of {{skills:each}}), "
            f"profile and entities have `fields` and `phrases`, and history has hop_tokens instead of hop. Convert the "
            f"suite (docs/prompts.md shows how), or use the release that wrote it."
        )


def _check_distinct(owner: str, kind: str, names: list[str]) -> None:
    if not all(name.strip() for name in names):
        raise ConfigError(f"{owner}: the name of one of its {kind} is blank. Name it.")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{owner}: {kind} {', '.join(repeated)} occur more than once. Rename or remove the copies.")


def _first_frame(questions: Sequence[Question], profile: Mapping[str, str], *, has_entity: bool) -> tuple[str, str]:
    """Render the first question whose fields are present."""
    for question in questions:
        if (has_entity or not question.places_entity) and (frame := question.render(profile)) is not None:
            return frame
    return "", ""


def _part(source: TaskSpec | Surface) -> str:
    """Return the name of a part of a suite, for messages and draws."""
    return f"{'surfaces' if isinstance(source, Surface) else 'tasks'}.{source.name}"


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        items = ((item, getattr(value, item.name)) for item in fields(value))
        return {
            item.name: _plain(below)
            for item, below in items
            if "added" not in item.metadata
            or below != (item.default if item.default_factory is MISSING else item.default_factory())
        }
    if isinstance(value, Mapping):
        return {name: _plain(below) for name, below in value.items()}
    return [_plain(below) for below in value] if isinstance(value, list | tuple) else value


def load_suite(name_or_folder: str | Path, changes: Sequence[str] = ()) -> TaskSuite:
    """Load a suite from a folder with `suite.yaml` (templates and surfaces) and `tasks/*.yaml` (one task each).

    Args:
        name_or_folder: The name of a built-in suite (a folder of `suites/`), or the path of a folder.
        changes: As for `changed_suite`.

    Raises:
        ConfigError: The suite does not exist, it has no task, or a file in it or a change is malformed.
    """
    folder = SUITES / str(name_or_folder)
    if not (folder / "suite.yaml").exists():
        folder = Path(name_or_folder)
    if not (folder / "suite.yaml").exists():
        shipped = ", ".join(sorted(path.name for path in SUITES.iterdir() if path.is_dir()))
        raise ConfigError(
            f"suite {name_or_folder!r} is neither a built-in suite ({shipped}) nor a folder that contains suite.yaml."
        )
    task_files = sorted((folder / "tasks").glob("*.yaml"))
    for path in (folder / "suite.yaml", *task_files):
        _check_format(path)
    suite = load_config(TaskSuite, folder / "suite.yaml")
    tasks = [load_config(TaskSpec, path) for path in task_files]
    if not tasks:
        raise ConfigError(f"suite {suite.name}: {folder / 'tasks'} contains no task file (*.yaml). Add one per task.")
    return changed_suite(replace(suite, tasks=[*suite.tasks, *tasks]), changes)


def changed_suite(suite: TaskSuite, changes: Sequence[str]) -> TaskSuite:
    """Return a suite with other settings, for a comparison of prompts.

    Args:
        suite: The suite.
        changes: `key=value`, applied in turn. Surfaces, tasks, actions and outcomes are named, as in
            `tasks.movie_rating.history.max_interactions=50` or `surfaces.ratings.actions.rated_1.label=bad`.

    Raises:
        ConfigError: A key is unknown, or the changed suite is invalid.
    """
    for change in changes:
        plain = suite.to_dict()
        suite = load_config(TaskSuite, plain, overrides=[_by_index(plain, change)])
    return suite


def _by_index(plain: Any, change: str) -> str:
    """Replace the names of list elements in the key of a change by their indices."""
    key, equals, value = change.partition("=")
    parts = []
    for part in key.strip().split("."):
        if isinstance(plain, list):
            names = [item.get("name") if isinstance(item, Mapping) else None for item in plain]
            if part not in names:
                raise ConfigError(
                    f"the change {change!r} names {part!r}, which the suite does not have. Use one of "
                    f"{', '.join(str(name) for name in names)}."
                )
            plain, part = plain[names.index(part)], str(names.index(part))
        else:
            plain = plain.get(part) if isinstance(plain, Mapping) else None
        parts.append(part)
    return f"{'.'.join(parts)}{equals}{value}"


def _check_format(path: Path) -> None:
    """Refuse a file of an earlier format before its keys are read."""
    try:
        data = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError):
        return  # load_config reports it
    if isinstance(data, dict):
        earlier = isinstance(data.get("profile"), list)  # in version 2, templates were lists
        if "format_version" in data or earlier:
            _check_format_version(str(data.get("name")), data.get("format_version"))

"""The prompt compiler renders records as token ids, for training and for batch, nearline and online scoring.

A prompt is a chat of many turns. The parts that rarely change come first, so all candidates of a request share one
prefix, and the member's next request shares most of it:

    <|system|> instruction <|member|> profile                          head
    <|user|> question entity <|assistant|> label      one per past interaction, oldest to newest
    <|user|> question entity <|assistant|>            the candidate; the model's next token answers

Surfaces render past interactions; the task renders the candidate (`brew_data.prompts.task_suite`).

Source: 360Brew, arXiv 2501.16450, sections 3 and 4 (many-shot prompts; multi-turn chat format).
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from types import MappingProxyType

from brew_data.privacy.redaction import redact
from brew_data.prompts.answers import encode_answers, longest_answer
from brew_data.prompts.budget import NOTHING_CUT, Budget, Cut
from brew_data.prompts.byte_limited_cache import ByteLimitedCache
from brew_data.prompts.chat import head_ids, question_ids
from brew_data.prompts.entity import Entity, PastInteraction
from brew_data.prompts.fields import field_values
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.member_documents import Document, MemberDocuments
from brew_data.prompts.member_prompts import MemberPrompts, Prefix, Turn
from brew_data.prompts.prompt_format import PromptFormat
from brew_data.prompts.task_suite import TaskSuite
from brew_data.prompts.tasks import Surface, TaskSpec
from brew_data.prompts.templates import RecordTemplate
from brew_data.prompts.tokenizer import Tokenizer
from brew_data.prompts.variation import FIRST, Variation
from brew_data.prompts.watch import Watch, pass_through
from brew_platform.errors import UserError

__all__ = [
    "Cut",
    "Document",
    "Entity",
    "MemberPrompts",
    "PastInteraction",
    "Prefix",
    "PromptCompiler",
    "PromptFormat",
    "Turn",
    "Watch",
    "pass_through",
]

Ids = tuple[int, ...]
_Fields = tuple[tuple[str, str], ...]
# Id of the template and fields of an entity, texts before and after it, and the maximum number of tokens.
_Shown = tuple[int, _Fields, str, str, int]
_SHORTENED_BYTES = 32 * 2**20  # of the entities whose shortened form is kept
_LONGEST_SHORTENED = 32 * 2**10  # bytes of such an entity


class PromptCompiler:
    """Compiles the prompts of one task suite with one tokenizer.

    Args:
        suite: Surfaces, tasks and templates.
        tokenizer: The tokenizer of the model that reads the prompts.
        format: The token budget.
        history: Policies that replace those of the suite, by task. The model is not trained on their prompts.

    Raises:
        UserError: The budget leaves no tokens for history, an instruction or the fixed text of a question exceeds its
            budget, two labels of a task have the same token ids, or `history` names an unknown task. Alternatives,
            which only training uses, are checked too.
        ConfigError: As `TaskSuite.check_history`, for a policy of `history`.
    """

    def __init__(
        self,
        suite: TaskSuite,
        tokenizer: Tokenizer,
        format: PromptFormat,
        history: Mapping[str, HistoryPolicy] = MappingProxyType({}),
    ) -> None:
        self.suite, self.tokenizer, self.format = suite, tokenizer, format
        for name, policy in history.items():
            suite.check_history(suite.task(name).name, policy)
        self.history = dict(history)
        self._policies = {task.name: history.get(task.name, task.history) for task in suite.tasks}
        self._variation = FIRST  # `varied` returns compilers with other forms
        self._task_answers = {task.name: encode_answers(tokenizer, suite, task) for task in suite.tasks}
        self._surface_answers = {surface.name: encode_answers(tokenizer, suite, surface) for surface in suite.surfaces}
        self._labels = {name: forms[0] for name, forms in self._task_answers.items()}
        self._surface_labels = {name: forms[0] for name, forms in self._surface_answers.items()}
        self._instructions = {task.name: suite.instruction(task) for task in suite.tasks}
        self._head_limit = format.head_tokens - len(head_ids(tokenizer, ()))
        for task in suite.tasks:
            tokens = max(len(tokenizer.encode(instruction)) for instruction in suite.longest_instructions(task))
            if tokens > self._head_limit:
                raise UserError(
                    f"task {task.name}: the instruction has {tokens} tokens, but head_tokens {format.head_tokens} "
                    f"leaves {self._head_limit}; shorten the instruction, or raise head_tokens."
                )
        self._budget = Budget(tokenizer)
        self._shortened = ByteLimitedCache[_Shown, tuple[Ids, Cut]](_SHORTENED_BYTES, entry_limit=_LONGEST_SHORTENED)
        longest = longest_answer(self._task_answers)
        # An example of training is a serving prompt, the answer, and <|end|>.
        end = any(task.trains_on_examples for task in suite.tasks)
        self.prefix_budget = format.context_length - format.question_tokens - longest - end
        past = longest_answer(self._surface_answers)
        if self.prefix_budget < format.head_tokens + format.question_tokens + past:
            raise UserError(format.no_history)
        sources: list[TaskSpec | Surface] = [*suite.surfaces, *suite.tasks]
        for source in sources:
            self._check_fixed_text(source, format.question_tokens, "question_tokens")
        for policy in self._policies.values():
            if policy.entity_tokens is not None:
                for name in policy.surfaces:
                    self._check_fixed_text(suite.surface(name), policy.entity_tokens, "history.entity_tokens")

    def __reduce__(self) -> tuple:
        return PromptCompiler, (self.suite, self.tokenizer, self.format, self.history)

    def _check_fixed_text(self, source: TaskSpec | Surface, limit: int, setting: str) -> None:
        """Refuse a question whose text after the entity, which is never cut, leaves too few tokens for the entity."""
        surface = source if isinstance(source, Surface) else self.suite.surface(source.surface)
        template = self.suite.entities[surface.entity_type]
        fixed = max(
            len(self.tokenizer.encode(f"{end}{after}"))
            for end in (template.end, *(form.end for form in template.alternatives))
            for _, after in self.suite.question_frames(source)
        )
        if fixed > limit // 2:
            raise UserError(
                f"{source.name}: the text after the entity has {fixed} tokens, more than half of {setting} {limit}; "
                f"shorten the question, or raise {setting}."
            )

    def varied(self, task: TaskSpec, variation: Variation) -> "PromptCompiler":
        """Return a compiler that renders one training document in the forms that a variation draws.

        Labels differ from the first ones only where the instruction of the document lists them (`TaskSuite.announced`).

        Args:
            task: The task whose instruction the document has; the compiler is for this task only.
            variation: The forms. `FIRST` returns this compiler.
        """
        if variation is FIRST:
            return self
        compiler = PromptCompiler.__new__(PromptCompiler)  # `copy` would build it again
        compiler.__dict__ |= self.__dict__
        compiler._variation = variation
        compiler._instructions = {task.name: self.suite.instruction(task, variation)}
        compiler._labels, compiler._surface_labels = dict(self._labels), dict(self._surface_labels)
        for source in self.suite.announced(task, variation):
            number = self.suite.label_form(source, variation)
            if isinstance(source, Surface):
                compiler._surface_labels[source.name] = self._surface_answers[source.name][number]
            else:
                compiler._labels[source.name] = self._task_answers[source.name][number]
        if task.outcomes is None:
            compiler._labels[task.name] = compiler._surface_labels[task.surface]
        return compiler

    def labels(self, task: TaskSpec) -> dict[str, Ids]:
        """Return the token ids of each outcome's answer, by outcome name; none begins another.

        An answer is the label. If a label of the task begins another one, as "like" begins "like strongly", each answer
        of the task is its label and `<|end|>`.
        """
        return self._labels[task.name]

    def label(self, task: TaskSpec, action: str) -> Ids:
        """Return the token ids of the answer for an action (`labels`), as the task maps actions to outcomes.

        Raises:
            UserError: The surface has no such action.
        """
        return self._labels[task.name][self.suite.outcome(task, action).name]

    def head(self, task: TaskSpec, profile: Mapping[str, object], own_words: str = "") -> tuple[Ids, Cut]:
        """Render instruction and profile.

        Args:
            task: The task whose instruction is rendered.
            profile: The member's fields by name.
            own_words: Preferences that the member wrote; they are appended to the instruction, without identifiers.

        Returns:
            Token ids, and what was cut to fit `head_tokens`: own words, and a profile that exceeds half of the tokens
            or what the instruction leaves.

        Raises:
            UserError: As in `field_values`.
        """
        return self.head_of(task, field_values(profile), own_words)

    def head_of(self, task: TaskSpec, profile: Mapping[str, str], own_words: str = "") -> tuple[Ids, Cut]:
        """Render instruction and profile, as `head`, from the values that `field_values` returned."""
        limit, instruction = self._head_limit, self._instructions[task.name]
        instruction_ids = self.tokenizer.encode(instruction, cached=True)
        profile_limit = min(limit // 2, limit - len(instruction_ids))
        template = self.suite.profile.form(self._variation, "profile")
        kept_profile, cut = self._budget.fit(template, profile, limit=profile_limit)
        if own_words := redact(own_words.strip()):
            instruction_ids = self.tokenizer.encode(f"{instruction} {own_words}")
        kept_instruction = instruction_ids[: limit - len(kept_profile)]
        cut += Cut(tokens=len(instruction_ids) - len(kept_instruction))
        return head_ids(self.tokenizer, kept_instruction, kept_profile), cut

    def question(self, source: TaskSpec | Surface, profile: Mapping[str, object], entity: Entity) -> tuple[Ids, Cut]:
        """Render the turn about `entity`, up to and including the control token that the answer follows.

        Args:
            source: The task of a candidate, or the surface of a past interaction.
            profile: The member's fields by name.
            entity: The candidate, or the entity of the past interaction.

        Returns:
            Token ids, and what was cut from the entity to fit `question_tokens`.

        Raises:
            UserError: The entity is of another type than the surface shows, or as in `field_values`.
        """
        return self.question_of(source, field_values(profile), entity)

    def questions(
        self,
        source: TaskSpec | Surface,
        profile: Mapping[str, object],
        entities: Iterable[Entity],
        *,
        watch: Watch = pass_through,
    ) -> list[tuple[Ids, Cut]]:
        """Render turns about several entities, as `question`.

        Args:
            watch: Passes the entities of the loop through.
        """
        values = field_values(profile)
        return [self.question_of(source, values, entity) for entity in watch(entities)]

    def question_of(
        self,
        source: TaskSpec | Surface,
        profile: Mapping[str, str],
        entity: Entity,
        *,
        most_tokens: int | None = None,
    ) -> tuple[Ids, Cut]:
        """Render the turn about `entity`, as `question`, from the profile that `field_values` returned.

        Args:
            most_tokens: A smaller budget than `question_tokens`, or None.
        """
        self.suite.check_entity_type(source, entity.entity_type)
        template, values = self.suite.entities[entity.entity_type], entity.values
        template = template.form(self._variation, f"entities.{entity.entity_type}")
        text = template.render(values)
        before, after = self.suite.question_frame(source, profile, has_entity=bool(text), variation=self._variation)
        ids = self.tokenizer.encode(f"{before}{text}{after}", cached=True)
        cut = NOTHING_CUT
        limit = min(self.format.question_tokens, most_tokens or self.format.question_tokens) - 2
        if template.max_tokens or len(ids) > limit:
            shown = tuple((name, values[name]) for name in template.fields if name in values and name in template.shown)
            ids, cut = self._shorten(template, shown, before, after, limit)
        return question_ids(self.tokenizer, ids), cut

    def _shorten(
        self, template: RecordTemplate, shown: _Fields, before: str, after: str, limit: int
    ) -> tuple[Ids, Cut]:
        """Render a question whose entity exceeds its budget, or has fields with budgets of their own."""
        key = id(template), shown, before, after, limit  # the suite keeps its templates, so their ids stay unique
        fitted = self._shortened.get(key)
        if fitted is None:
            fitted = self._budget.fit(template, dict(shown), limit=limit, before=before, after=after)
            size = sum(map(sys.getsizeof, (before, after, *chain.from_iterable(shown)))) + 40 * len(fitted[0]) + 1_000
            self._shortened.put(key, fitted, size=size)
        return fitted

    def turn(self, profile: Mapping[str, object], past: PastInteraction) -> Turn:
        """Render a past interaction with the question and labels of its surface.

        Args:
            profile: The member's fields by name.
            past: The interaction.

        Returns:
            Token ids of the question, those of the answer, and what was cut from the question. The answer ends with
            `<|end|>` if a label of the surface begins another one.

        Raises:
            UserError: The surface is unknown, it has no such action, it shows entities of another type, or as in
                `field_values`.
        """
        return self.turn_of(field_values(profile), past)

    def turn_of(self, profile: Mapping[str, str], past: PastInteraction, most_tokens: int | None = None) -> Turn:
        """Render a past interaction, as `turn`, from the profile that `field_values` returned.

        Args:
            most_tokens: As in `question_of`.
        """
        surface, answer = self._answered(past)
        question, cut = self.question_of(surface, profile, past.entity, most_tokens=most_tokens)
        return Turn(question, answer, cut)

    def _answered(self, past: PastInteraction) -> tuple[Surface, Ids]:
        """Return the surface of a past interaction, and the token ids of its answer."""
        surface = self.suite.surface(past.surface)
        answer = self._surface_labels[surface.name].get(past.action)
        if answer is None:
            surface.label(past.action)  # raises
            raise AssertionError
        return surface, answer

    def require_turn(self, past: PastInteraction) -> None:
        """Check surface, action and entity type of a past interaction, without compiling its turn.

        Raises:
            UserError: As in `turn`.
        """
        surface, _ = self._answered(past)
        self.suite.check_entity_type(surface, past.entity.entity_type)

    def policy(self, task: TaskSpec) -> HistoryPolicy:
        """Return the history policy of a task: that of the suite, or the one that replaces it."""
        return self._policies[task.name]

    def member(self, profile: Mapping[str, object], history: Iterable[PastInteraction]) -> MemberPrompts:
        """Return the prompts of one member, for several moments, tasks or candidates.

        Args:
            profile: The member's fields by name.
            history: The member's past interactions.
        """
        return MemberPrompts(self, profile, history)

    def prefix(
        self,
        task: TaskSpec,
        profile: Mapping[str, object],
        history: Iterable[PastInteraction],
        *,
        candidate: Entity | None = None,
        before: int | None = None,
        own_words: str = "",
        watch: Watch = pass_through,
    ) -> Prefix:
        """Render everything before the candidate: `MemberPrompts.prefix` of one prompt."""
        member = self.member(profile, history)
        return member.prefix(task, candidate=candidate, before=before, own_words=own_words, watch=watch)

    def documents(
        self,
        profile: Mapping[str, object],
        history: Iterable[PastInteraction],
        *,
        turn_of: int = 0,
        variation: Callable[[int], Variation] | None = None,
        after: int | None = None,
        slates: bool = False,
    ) -> list[Document]:
        """Render a member's interactions as training documents: `MemberDocuments.documents`."""
        member = MemberDocuments(self, profile, history)
        return member.documents(turn_of=turn_of, variation=variation, after=after, slates=slates)

    def example(
        self, task: TaskSpec, profile: Mapping[str, object], history: Iterable[PastInteraction], scored: PastInteraction
    ) -> Document:
        """Render the training document of one interaction: `MemberDocuments.example`."""
        return MemberDocuments(self, profile, history).example(task, scored)

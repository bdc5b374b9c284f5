"""The prompt compiler renders records as token ids, for training and for batch, nearline and online scoring.

A prompt is a chat of many turns. The parts that rarely change come first, so all candidates of a request share one
prefix, and the member's next request shares most of it:

    <|system|> instruction <|member|> profile                          head
    <|user|> question entity <|assistant|> label      one per past interaction, oldest to newest
    <|user|> question entity <|assistant|>            the candidate; the model's next token answers

Surfaces render past interactions; the task renders the candidate (`brew_data.prompts.suite`).

Source: 360Brew, arXiv 2501.16450, sections 3 and 4 (many-shot prompts; multi-turn chat format).
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Annotated, Protocol, TypeVar

from brew_data.privacy.redaction import redact
from brew_data.prompts.budget import NOTHING_CUT, Budget, Cut
from brew_data.prompts.byte_limited_cache import ByteLimitedCache
from brew_data.prompts.chat import head_ids, question_ids
from brew_data.prompts.fields import field_values
from brew_data.prompts.history import first_kept, first_possible, hop_limit
from brew_data.prompts.suite import Action, Outcome, Surface, TaskSpec, TaskSuite
from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.errors import ConfigError, UserError
from brew_platform.settings import PositiveInt, Range, Settings

__all__ = [
    "Cut",
    "Document",
    "Entity",
    "PastInteraction",
    "Prefix",
    "PromptCompiler",
    "PromptFormat",
    "Watch",
    "pass_through",
]

Ids = tuple[int, ...]
_Shown = tuple[str, tuple[tuple[str, str], ...], str, str]  # type and fields of an entity, texts before and after it
T = TypeVar("T")
_SHORTENED_BYTES = 32 * 2**20  # of the entities whose shortened form is kept
_LONGEST_SHORTENED = 32 * 2**10  # bytes of such an entity


class Watch(Protocol):
    """Passes the items of a long loop through; it can end the loop with an error of its own between two items."""

    def __call__(self, items: Iterable[T], /) -> Iterable[T]: ...


def pass_through(items: Iterable[T]) -> Iterable[T]:
    """Return the items: the `Watch` of loops that nothing ends."""
    return items


@dataclass(frozen=True, kw_only=True)
class PromptFormat(Settings):
    """The token budget of a prompt. It is part of a model version, because training and serving must use the same one.

    Raises:
        ConfigError: A number is too small for the control tokens, or the context has no tokens left for history beside
            the other two budgets.
    """

    context_length: PositiveInt  # maximum number of tokens of a prompt, including the answer
    # Maximum number of tokens of instruction and profile together.
    head_tokens: Annotated[int, Range(ge=4)] = 192
    # Maximum number of tokens of a turn. As many are reserved for the candidate, whatever its length, so that the
    # prefix does not depend on the candidate.
    question_tokens: Annotated[int, Range(ge=4)] = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context_length <= self.head_tokens + 2 * self.question_tokens:
            raise ConfigError(_no_history(self))


def _no_history(format: PromptFormat) -> str:
    return (
        f"context_length {format.context_length} leaves no tokens for history beside head_tokens {format.head_tokens} "
        f"and question_tokens {format.question_tokens}; raise it, or lower those."
    )


@dataclass(frozen=True, kw_only=True)
class Entity:
    """An item that can be shown to a member.

    Args:
        entity_type: Selects the suite's template that renders the entity.
        fields: Values by name, as in the entities table or in a request.
    """

    entity_type: str
    fields: Mapping[str, object]

    @staticmethod
    def of_values(entity_type: str, values: Mapping[str, str]) -> "Entity":
        """Return an entity with fields that `field_values` returned; they are not converted again."""
        entity = Entity(entity_type=entity_type, fields=values)
        entity.__dict__["values"] = values
        return entity

    @cached_property
    def values(self) -> dict[str, str]:
        """The text of each field that is present.

        Raises:
            UserError: As in `field_values`.
        """
        return field_values(self.fields)


@dataclass(frozen=True, kw_only=True)
class PastInteraction:
    """A past interaction of a member.

    Args:
        entity: The entity that the member saw.
        surface: The name of the surface that showed it.
        action: The name of the action that the member took.
        timestamp: Microseconds since 1970, UTC.
    """

    entity: Entity
    surface: str
    action: str
    timestamp: int


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The part of a prompt that all candidates of a request share.

    Args:
        ids: Token ids.
        turns: The number of past interactions in the prefix.
        turns_dropped: The number of oldest interactions that the policy's maximum or the token budget excluded.
        head_cut: What was cut from instruction and profile.
        history_cut: What was cut from the entities of the shown interactions.
    """

    ids: Ids
    turns: int
    turns_dropped: int
    head_cut: Cut
    history_cut: Cut


@dataclass(frozen=True, kw_only=True)
class Document:
    """A training document: a chat with its answers.

    Args:
        ids: Token ids, `<|end|>` last.
        roles: One per token: 1 for tokens of an answer that is trained, else 0.
        cut: What was cut from instruction, profile and entities.
        turns_dropped: The number of interactions that the prompt of an `example` does not show.
    """

    ids: Ids
    roles: Ids
    cut: Cut = NOTHING_CUT
    turns_dropped: int = 0


class PromptCompiler:
    """Compiles the prompts of one task suite with one tokenizer.

    Args:
        suite: Surfaces, tasks and templates.
        tokenizer: The tokenizer of the model that reads the prompts.
        format: The token budget.

    Raises:
        UserError: The budget leaves no tokens for history, an instruction or the fixed text of a question exceeds its
            budget, or two labels of a task have the same token ids.
    """

    def __init__(self, suite: TaskSuite, tokenizer: Tokenizer, format: PromptFormat) -> None:
        self.suite, self.tokenizer, self.format = suite, tokenizer, format
        self._labels = {
            task.name: self._answers(f"task {task.name}", suite.outcomes(task), "outcome") for task in suite.tasks
        }
        self._surface_labels = {
            surface.name: self._answers(f"surface {surface.name}", surface.actions, "action")
            for surface in suite.surfaces
        }
        self._instructions = {task.name: suite.instruction(task) for task in suite.tasks}
        self._head_limit = format.head_tokens - len(head_ids(tokenizer, ()))
        for name, instruction in self._instructions.items():
            if (tokens := len(tokenizer.encode(instruction))) > self._head_limit:
                raise UserError(
                    f"task {name}: the instruction has {tokens} tokens, but head_tokens {format.head_tokens} leaves "
                    f"{self._head_limit}; shorten the instruction, or raise head_tokens."
                )
        self._budget = Budget(tokenizer)
        self._shortened = ByteLimitedCache[_Shown, tuple[Ids, Cut]](_SHORTENED_BYTES, entry_limit=_LONGEST_SHORTENED)
        longest = max((len(ids) for labels in self._labels.values() for ids in labels.values()), default=1)
        # A training document of a task that does not follow its surface is a serving prompt, the answer, and <|end|>.
        end = any(not task.follows_surface for task in suite.tasks)
        self._prefix_budget = format.context_length - format.question_tokens - longest - end
        past = max((len(ids) for labels in self._surface_labels.values() for ids in labels.values()), default=1)
        if self._prefix_budget < format.head_tokens + format.question_tokens + past:
            raise UserError(_no_history(format))
        sources: list[TaskSpec | Surface] = [*suite.surfaces, *suite.tasks]
        for source in sources:
            self._check_fixed_text(source)
        # A head can be shorter than its budget, so the budget of history varies; the hop must not vary with it.
        history = self._prefix_budget - format.head_tokens
        self._hops = {task.name: hop_limit(task.history.hop_tokens, history) for task in suite.tasks}

    def __reduce__(self) -> tuple:
        return PromptCompiler, (self.suite, self.tokenizer, self.format)

    def _check_fixed_text(self, source: TaskSpec | Surface) -> None:
        """Refuse a question whose text after the entity, which is never cut, leaves too few tokens for the entity."""
        surface = source if isinstance(source, Surface) else self.suite.surface(source.surface)
        profile = dict.fromkeys(self.suite.profile.fields, "x")
        _, after = self.suite.question_frame(source, profile, has_entity=True)
        fixed = len(self.tokenizer.encode(f"{self.suite.entities[surface.entity_type].end}{after}"))
        if fixed > self.format.question_tokens // 2:
            raise UserError(
                f"{source.name}: the text after the entity has {fixed} tokens, more than half of question_tokens "
                f"{self.format.question_tokens}; shorten the question, or raise question_tokens."
            )

    def _answers(self, owner: str, labelled: Sequence[Outcome | Action], kind: str) -> dict[str, Ids]:
        """Return the token ids of each label, by name; `<|end|>` follows every label if one begins another."""
        labels = {item.name: self.tokenizer.encode(item.label) for item in labelled}
        names: dict[Ids, str] = {}
        for name, ids in labels.items():
            if ids in names:
                raise UserError(
                    f"{owner}: the labels of {kind}s {names[ids]!r} and {name!r} have the same token ids, so their "
                    f"probabilities cannot be separated; change one of them."
                )
            names[ids] = name
        # In lexicographic order, a label that begins others begins the next one.
        ends = any(ids == longer[: len(ids)] for ids, longer in pairwise(sorted(labels.values()))) or any(
            longer.startswith(text) for text, longer in pairwise(sorted(item.label for item in labelled))
        )
        return {name: (*ids, self.tokenizer.end) for name, ids in labels.items()} if ends else labels

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
            own_words: Preferences that the member wrote; they are appended to the task's instruction, without contacts.

        Returns:
            Token ids, and what was cut to fit `head_tokens`: own words, and a profile that exceeds half of the tokens
            or what the instruction leaves.

        Raises:
            UserError: As in `field_values`.
        """
        return self._head(task, field_values(profile), own_words)

    def _head(self, task: TaskSpec, profile: Mapping[str, str], own_words: str = "") -> tuple[Ids, Cut]:
        limit, instruction = self._head_limit, self._instructions[task.name]
        instruction_ids = self.tokenizer.encode(instruction, cached=True)
        profile_limit = min(limit // 2, limit - len(instruction_ids))
        kept_profile, cut = self._budget.fit(self.suite.profile, profile, limit=profile_limit)
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
        return self._question(source, field_values(profile), entity)

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
        return [self._question(source, values, entity) for entity in watch(entities)]

    def _question(self, source: TaskSpec | Surface, profile: Mapping[str, str], entity: Entity) -> tuple[Ids, Cut]:
        self.suite.check_entity_type(source, entity.entity_type)
        template, values = self.suite.entities[entity.entity_type], entity.values
        text = template.render(values)
        before, after = self.suite.question_frame(source, profile, has_entity=bool(text))
        ids = self.tokenizer.encode(f"{before}{text}{after}", cached=True)
        cut = NOTHING_CUT
        if template.max_tokens or len(ids) > self.format.question_tokens - 2:
            shown = tuple((name, values[name]) for name in template.fields if name in values and name in template.shown)
            ids, cut = self._shorten((entity.entity_type, shown, before, after))
        return question_ids(self.tokenizer, ids), cut

    def _shorten(self, shown: _Shown) -> tuple[Ids, Cut]:
        """Render a question whose entity exceeds its budget, or has fields with budgets of their own."""
        fitted = self._shortened.get(shown)
        if fitted is None:
            entity_type, values, before, after = shown
            limit = self.format.question_tokens - 2
            template = self.suite.entities[entity_type]
            fitted = self._budget.fit(template, dict(values), limit=limit, before=before, after=after)
            size = sum(map(sys.getsizeof, (before, after, *chain.from_iterable(values)))) + 40 * len(fitted[0]) + 1_000
            self._shortened.put(shown, fitted, size=size)
        return fitted

    def turn(self, profile: Mapping[str, object], past: PastInteraction) -> tuple[Ids, Ids, Cut]:
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
        return self._turn(field_values(profile), past)

    def _turn(self, profile: Mapping[str, str], past: PastInteraction) -> tuple[Ids, Ids, Cut]:
        surface, answer = self._answered(past)
        question, cut = self._question(surface, profile, past.entity)
        return question, answer, cut

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

    def characters(
        self,
        task: TaskSpec,
        profile: Mapping[str, object],
        history: Sequence[PastInteraction],
        entities: Iterable[Entity],
    ) -> int:
        """Return about how many characters `prefix` and `questions` encode, before anything is cut.

        Counted are profile, shown interactions and entities, and for each of these the question's own text. One more
        is counted for each interaction, shown or not.

        Args:
            task: The task.
            profile: The member's fields by name.
            history: The member's past interactions.
            entities: The candidates.

        Raises:
            UserError: As in `field_values`.
        """
        values = field_values(profile)
        relevant = self._relevant(task, history)
        shown = relevant[first_possible(len(relevant), task.history.max_interactions) :]
        sources: list[TaskSpec | Surface] = [task, *map(self.suite.surface, task.history.surfaces)]
        frame = max(sum(map(len, self.suite.question_frame(source, values, has_entity=True))) for source in sources)
        total = len(history) + sum(len(value) for name, value in values.items() if name in self.suite.profile.shown)
        for entity in chain((past.entity for past in shown), entities):
            template = self.suite.entities.get(entity.entity_type)
            names = template.shown if template else ()
            total += frame + sum(len(value) for name, value in entity.values.items() if name in names)
        return total

    def _relevant(
        self, task: TaskSpec, history: Sequence[PastInteraction], before: int | None = None
    ) -> list[PastInteraction]:
        """Return the interactions on the surfaces whose history the task shows."""
        surfaces = set(task.history.surfaces)
        return [p for p in history if p.surface in surfaces and (before is None or p.timestamp < before)]

    def prefix(
        self,
        task: TaskSpec,
        profile: Mapping[str, object],
        history: Sequence[PastInteraction],
        *,
        before: int | None = None,
        own_words: str = "",
        watch: Watch = pass_through,
    ) -> Prefix:
        """Render head and history: everything before the candidate.

        Args:
            task: The task whose instruction and history policy are used.
            profile: The member's fields by name.
            history: The member's past interactions, sorted by time.
            before: Only interactions strictly earlier than this time (microseconds) are shown; None shows all.
            own_words: As in `head`.
            watch: Passes the interactions of the loop through.

        Returns:
            Token ids, and the numbers of turns and tokens that were dropped to fit the budget.

        Raises:
            UserError: As in `turn`.
        """
        relevant = self._relevant(task, history, before)
        values = field_values(profile)
        head, head_cut = self._head(task, values, own_words)
        oldest = first_possible(len(relevant), task.history.max_interactions)  # only turns from here on are compiled
        turns = [self._turn(values, past) for past in watch(relevant[oldest:])]
        start = first_kept(
            [len(question) + len(answer) for question, answer, _ in turns],
            budget=self._prefix_budget - len(head),
            hop=self._hops[task.name],
            most=task.history.max_interactions,
        )
        return Prefix(
            ids=tuple(chain(head, *chain.from_iterable(turn[:2] for turn in turns[start:]))),
            turns=len(turns) - start,
            turns_dropped=oldest + start,
            head_cut=head_cut,
            history_cut=sum((cut for _, _, cut in turns[start:]), NOTHING_CUT),
        )

    def documents(
        self, profile: Mapping[str, object], history: Sequence[PastInteraction], *, turn_of: int = 0
    ) -> list[Document]:
        """Render a member's interactions as training documents, none longer than the context.

        Tasks that follow their surface train on whole histories: head, turns with all answers, `<|end|>`. Such tasks
        share documents if their histories show the same surfaces; the documents use their instructions in turn. Every
        other task trains on an `example` for each of the newest interactions on its surface.

        Args:
            profile: The member's fields by name.
            history: The member's past interactions, sorted by time.
            turn_of: Selects the task whose instruction the first document uses; pass a hash of the member.

        Returns:
            The documents: whole histories first, then examples.

        Raises:
            UserError: As in `turn`.
        """
        trained = [task for task in self.suite.tasks if task.in_training]
        shown = {task.surface for task in trained}
        answered = {task.surface for task in trained if task.follows_surface}
        groups: dict[tuple[str, ...], list[TaskSpec]] = {}
        for task in trained:
            if task.follows_surface:
                groups.setdefault(tuple(s for s in task.history.surfaces if s in shown), []).append(task)
        documents: list[Document] = []
        values = field_values(profile)
        for surfaces, tasks in groups.items():
            pending = [
                (*self._turn(values, past), int(past.surface in answered))
                for past in history
                if past.surface in surfaces
            ]
            while pending:
                head, cut = self._head(tasks[(turn_of + len(documents)) % len(tasks)], values)
                ids, roles = list(head), [0] * len(head)
                taken = 0
                for question, answer, turn_cut, role in pending:
                    if len(ids) + len(question) + len(answer) + 1 > self.format.context_length:
                        break
                    ids += question + answer
                    roles += [0] * len(question) + [role] * len(answer)
                    cut += turn_cut
                    taken += 1
                pending = pending[taken:]
                documents.append(self._ended(ids, roles, cut))
        for task in trained:
            if not task.follows_surface:
                scored = [past for past in history if past.surface == task.surface][-task.examples_per_member :]
                documents += [self.example(task, profile, history, past) for past in scored]
        return documents

    def example(
        self, task: TaskSpec, profile: Mapping[str, object], history: Sequence[PastInteraction], scored: PastInteraction
    ) -> Document:
        """Render the prompt that serving builds for an interaction, followed by the outcome's label and `<|end|>`.

        Args:
            task: The task that predicts the outcome. Its surface must be the surface of the interaction.
            profile: The member's fields by name.
            history: The member's past interactions, sorted by time. The prompt shows those strictly earlier than
                `scored`.
            scored: The interaction to predict.

        The answer can include `<|end|>` (`labels`); it is then trained.

        Raises:
            UserError: As in `turn`.
        """
        prefix = self.prefix(task, profile, history, before=scored.timestamp)
        question, cut = self.question(task, profile, scored.entity)
        prompt, answer = prefix.ids + question, self.label(task, scored.action)
        cut += prefix.head_cut + prefix.history_cut
        return self._ended(
            (*prompt, *answer), [0] * len(prompt) + [1] * len(answer), cut, turns_dropped=prefix.turns_dropped
        )

    def _ended(self, ids: Sequence[int], roles: Sequence[int], cut: Cut, *, turns_dropped: int = 0) -> Document:
        """Return a document that ends with `<|end|>`, which a last answer can bring itself."""
        if ids[-1] == self.tokenizer.end:
            return Document(ids=tuple(ids), roles=tuple(roles), cut=cut, turns_dropped=turns_dropped)
        return Document(ids=(*ids, self.tokenizer.end), roles=(*roles, 0), cut=cut, turns_dropped=turns_dropped)

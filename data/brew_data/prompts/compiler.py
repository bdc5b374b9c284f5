"""The prompt compiler renders records as token ids, for training and for batch, nearline and online scoring.

A prompt is a chat of many turns. The parts that rarely change come first, so all candidates of a request share one
prefix, and the member's next request shares most of it:

    <|system|> instruction <|member|> profile                          head
    <|user|> question entity <|assistant|> label      one per past interaction, oldest to newest
    <|user|> question entity <|assistant|>            the candidate; the model's next token answers

Surfaces render past interactions; the task renders the candidate (`brew_data.prompts.suite`).

Source: 360Brew, arXiv 2501.16450, sections 3 and 4 (many-shot prompts; multi-turn chat format).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from brew_data.prompts.chat import head_ids, question_ids
from brew_data.prompts.history import first_kept
from brew_data.prompts.suite import Surface, TaskSpec, TaskSuite
from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.errors import UserError

__all__ = ["Document", "Entity", "PastInteraction", "Prefix", "PromptCompiler", "PromptFormat"]

Ids = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PromptFormat:
    """The token budget of a prompt. It is part of a model version, because training and serving must use the same one.

    Args:
        context_length: The maximum number of tokens of a prompt, including the answer.
        head_tokens: The maximum number of tokens of instruction and profile together.
        question_tokens: The number of tokens reserved for the candidate. The reservation is fixed, so that the prefix
            does not depend on the candidate.
    """

    context_length: int
    head_tokens: int = 192
    question_tokens: int = 64


@dataclass(frozen=True, kw_only=True)
class Entity:
    """An item that can be shown to a member.

    Args:
        entity_type: Selects the suite's template that renders the entity.
        fields: Values by name, as in the entities table or in a request.
    """

    entity_type: str
    fields: Mapping[str, object]


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
        tokens_dropped: The number of tokens that were cut from instruction and profile.
    """

    ids: Ids
    turns: int
    turns_dropped: int
    tokens_dropped: int


@dataclass(frozen=True, kw_only=True)
class Document:
    """A training document: a chat with its answers.

    Args:
        ids: Token ids, `<|end|>` last.
        roles: One per token: 1 for tokens of an answer that is trained, else 0.
    """

    ids: Ids
    roles: Ids


class PromptCompiler:
    """Compiles the prompts of one task suite with one tokenizer.

    Args:
        suite: Surfaces, tasks and templates.
        tokenizer: The tokenizer of the model that reads the prompts.
        format: The token budget.

    Raises:
        UserError: The budget leaves no tokens for history, or the token ids of a label start with those of another
            label of the same task, so that their probabilities cannot be separated.
    """

    def __init__(self, suite: TaskSuite, tokenizer: Tokenizer, format: PromptFormat) -> None:
        self.suite, self.tokenizer, self.format = suite, tokenizer, format
        self._labels = {task.name: self._label_ids(task) for task in suite.tasks}
        longest = max(len(ids) for labels in self._labels.values() for ids in labels.values())
        # A training document of a task that does not follow its surface is a serving prompt, the answer, and <|end|>.
        end = any(not task.follows_surface for task in suite.tasks)
        self._prefix_budget = format.context_length - format.question_tokens - longest - end
        if self._prefix_budget < format.head_tokens + format.question_tokens:
            raise UserError(
                f"context_length {format.context_length} leaves no tokens for history beside head_tokens "
                f"{format.head_tokens} and question_tokens {format.question_tokens}; raise it, or lower those."
            )

    def _label_ids(self, task: TaskSpec) -> dict[str, Ids]:
        labels = {outcome.name: self.tokenizer.encode(outcome.label) for outcome in self.suite.outcomes(task)}
        for name, ids in labels.items():
            for other, other_ids in labels.items():
                if name != other and other_ids[: len(ids)] == ids:
                    raise UserError(
                        f"task {task.name}: the label of {other!r} starts with the label of {name!r}, so their "
                        f"probabilities cannot be separated; change one of them."
                    )
        return labels

    def labels(self, task: TaskSpec) -> dict[str, Ids]:
        """Return the token ids of each outcome's label, by outcome name; no label starts with another."""
        return self._labels[task.name]

    def label(self, task: TaskSpec, action: str) -> Ids:
        """Return the token ids of the label of an action, as the task maps actions to outcomes.

        Raises:
            UserError: The surface has no such action.
        """
        return self._labels[task.name][self.suite.outcome(task, action).name]

    def head(self, task: TaskSpec, profile: Mapping[str, object], own_words: str = "") -> tuple[Ids, int]:
        """Render instruction and profile.

        Args:
            task: The task whose instruction is rendered.
            profile: The member's fields by name.
            own_words: Preferences that the member wrote; they are appended to the task's instruction.

        Returns:
            Token ids, and the number of tokens that were cut to fit `head_tokens`.
        """
        limit = self.format.head_tokens - 2
        profile_ids = self.tokenizer.encode(self.suite.profile_text(profile))
        kept_profile = profile_ids[: limit // 2]
        instruction = f"{task.instruction} {own_words.strip()}" if own_words.strip() else task.instruction
        instruction_ids = self.tokenizer.encode(instruction)
        kept_instruction = instruction_ids[: limit - len(kept_profile)]
        cut = len(profile_ids) + len(instruction_ids) - len(kept_profile) - len(kept_instruction)
        return head_ids(self.tokenizer, kept_instruction, kept_profile), cut

    def question(self, source: TaskSpec | Surface, profile: Mapping[str, object], entity: Entity) -> tuple[Ids, int]:
        """Render the turn about `entity`, up to and including the control token that the answer follows.

        Args:
            source: The task of a candidate, or the surface of a past interaction.
            profile: The member's fields by name.
            entity: The candidate, or the entity of the past interaction.

        Returns:
            Token ids, and the number of tokens that were cut to fit `question_tokens`.

        Raises:
            UserError: The entity is of another type than the surface shows.
        """
        ids = self.tokenizer.encode(self.suite.question_text(source, profile, entity.entity_type, entity.fields))
        kept = ids[: self.format.question_tokens - 2]
        return question_ids(self.tokenizer, kept), len(ids) - len(kept)

    def turn(self, profile: Mapping[str, object], past: PastInteraction) -> tuple[Ids, Ids]:
        """Render a past interaction with the question and labels of its surface.

        Args:
            profile: The member's fields by name.
            past: The interaction.

        Returns:
            Token ids of the question, and of the answer.

        Raises:
            UserError: The surface is unknown, it has no such action, or it shows entities of another type.
        """
        surface = self.suite.surface(past.surface)
        answer = self.tokenizer.encode(surface.label(past.action))
        return self.question(surface, profile, past.entity)[0], answer

    def prefix(
        self,
        task: TaskSpec,
        profile: Mapping[str, object],
        history: Sequence[PastInteraction],
        *,
        before: int | None = None,
        own_words: str = "",
    ) -> Prefix:
        """Render head and history: everything before the candidate.

        Args:
            task: The task whose instruction and history policy are used.
            profile: The member's fields by name.
            history: The member's past interactions, sorted by time.
            before: Only interactions strictly earlier than this time (microseconds) are shown; None shows all.
            own_words: As in `head`.

        Returns:
            Token ids, and the numbers of turns and tokens that were dropped to fit the budget.

        Raises:
            UserError: As in `turn`.
        """
        surfaces = set(task.history.surfaces)
        relevant = [p for p in history if p.surface in surfaces and (before is None or p.timestamp < before)]
        head, cut = self.head(task, profile, own_words)
        # Only turns that may be shown are compiled: the newest max_interactions, rounded up to a multiple of the hop.
        oldest = max(0, len(relevant) - task.history.max_interactions - task.history.hop)
        oldest -= oldest % task.history.hop
        turns = [tuple(chain(*self.turn(profile, past))) for past in relevant[oldest:]]
        start = first_kept(
            [len(turn) for turn in turns],
            budget=self._prefix_budget - len(head),
            hop=task.history.hop,
            most=task.history.max_interactions,
        )
        return Prefix(
            ids=tuple(chain(head, *turns[start:])),
            turns=len(turns) - start,
            turns_dropped=oldest + start,
            tokens_dropped=cut,
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
        for surfaces, tasks in groups.items():
            pending = [
                (*self.turn(profile, past), int(past.surface in answered))
                for past in history
                if past.surface in surfaces
            ]
            while pending:
                head, _ = self.head(tasks[(turn_of + len(documents)) % len(tasks)], profile)
                ids, roles = list(head), [0] * len(head)
                taken = 0
                for question, answer, role in pending:
                    if len(ids) + len(question) + len(answer) + 1 > self.format.context_length:
                        break
                    ids += question + answer
                    roles += [0] * len(question) + [role] * len(answer)
                    taken += 1
                pending = pending[taken:]
                documents.append(Document(ids=(*ids, self.tokenizer.end), roles=(*roles, 0)))
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

        Raises:
            UserError: As in `turn`.
        """
        prefix = self.prefix(task, profile, history, before=scored.timestamp).ids
        prompt = prefix + self.question(task, profile, scored.entity)[0]
        answer = self.label(task, scored.action)
        return Document(ids=(*prompt, *answer, self.tokenizer.end), roles=(*[0] * len(prompt), *[1] * len(answer), 0))

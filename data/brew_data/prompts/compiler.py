"""The prompt compiler: one path from records to token ids, for training, batch, nearline and online.

A prompt is a chat of many turns, stable parts first, so that all candidates of a request share one prefix and a
member's next request shares most of it:

    <|system|> instruction <|member|> profile                          head
    <|user|> question entity <|assistant|> label      one per past interaction, oldest to newest
    <|user|> question entity <|assistant|>            the candidate; the model's next token answers

Owns: segments, their order, the token budget and the report of what it cut. Does not own: which records are shown
(`HistoryPolicy` says, `history.py` applies it) and what they say (`TaskSuite`).
Source: 360Brew, arXiv 2501.16450, sections 3 and 4 (many-shot prompts; multi-turn chat format); issue 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from brew_data.prompts.history import first_kept
from brew_data.prompts.suite import TaskSpec, TaskSuite
from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.errors import UserError

__all__ = ["Document", "Entity", "Past", "Prefix", "PromptCompiler", "PromptFormat"]

Ids = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PromptFormat:
    """The token budget; part of a model version's signature, since training and serving must agree on it."""

    context_length: int  # tokens of a whole prompt, the answer included
    head_tokens: int = 192  # at most this many for instruction and profile together
    question_tokens: int = 64  # reserved for the candidate, so that the prefix does not depend on it


@dataclass(frozen=True, kw_only=True)
class Entity:
    """Something that can be shown to a member: `fields` by name, as the entities table or a request gives them."""

    entity_type: str
    fields: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Past:
    """One past interaction of the member."""

    entity: Entity
    surface: str
    action: str
    timestamp: int  # microseconds since 1970, UTC


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What all candidates of a request share.

    Args:
        ids: token ids.
        turns: past interactions shown.
        turns_dropped: past interactions left out, the oldest first, by the policy's maximum or the token budget.
        tokens_dropped: tokens cut from instruction and profile.
    """

    ids: Ids
    turns: int
    turns_dropped: int
    tokens_dropped: int


@dataclass(frozen=True, kw_only=True)
class Document:
    """A training document: a member's chat, or a window of it.

    Args:
        ids: token ids, `<|end|>` last.
        roles: as many; 1 where the token is part of an answer (a label), else 0.
    """

    ids: Ids
    roles: Ids


class PromptCompiler:
    """Compiles prompts of one task suite with one tokenizer.

    Args:
        suite: tasks and templates.
        tokenizer: of the model that reads the prompts.
        format: the token budget.

    Raises:
        UserError: the budget leaves no room for history, or a label is the beginning of another one's tokens, so that
            their probabilities could not be told apart.
    """

    def __init__(self, suite: TaskSuite, tokenizer: Tokenizer, format: PromptFormat) -> None:
        self.suite, self.tokenizer, self.format = suite, tokenizer, format
        self._labels = {task.name: self._label_ids(task) for task in suite.tasks}
        longest = max(len(ids) for labels in self._labels.values() for ids in labels.values())
        self._prefix_budget = format.context_length - format.question_tokens - longest
        if self._prefix_budget < format.head_tokens + format.question_tokens:
            raise UserError(
                f"context_length {format.context_length} leaves no room for history beside {format.head_tokens} tokens "
                f"of head and {format.question_tokens} of question; raise it, or lower those."
            )

    def _label_ids(self, task: TaskSpec) -> dict[str, Ids]:
        labels = {name: self.tokenizer.encode(label) for name, label in task.labels.items()}
        for name, ids in labels.items():
            for other, other_ids in labels.items():
                if name != other and other_ids[: len(ids)] == ids:
                    raise UserError(
                        f"task {task.name}: label of {name!r} begins that of {other!r}; change one of them."
                    )
        return labels

    def labels(self, task: TaskSpec) -> dict[str, Ids]:
        """Token ids of each action's label, by action name; none begins another."""
        return self._labels[task.name]

    def head(self, task: TaskSpec, profile: Mapping[str, object], own_words: str = "") -> tuple[Ids, int]:
        """Instruction and profile, and how many tokens were cut to fit `head_tokens`.

        Args:
            own_words: what the member says in their own words about what they want; follows the task's instruction.
        """
        limit = self.format.head_tokens - 2
        profile_ids = self.tokenizer.encode(self.suite.profile_text(profile))
        kept_profile = profile_ids[: limit // 2]
        instruction = f"{task.instruction} {own_words.strip()}" if own_words.strip() else task.instruction
        instruction_ids = self.tokenizer.encode(instruction)
        kept_instruction = instruction_ids[: limit - len(kept_profile)]
        cut = len(profile_ids) + len(instruction_ids) - len(kept_profile) - len(kept_instruction)
        return (self.tokenizer.system, *kept_instruction, self.tokenizer.member, *kept_profile), cut

    def question(self, task: TaskSpec, profile: Mapping[str, object], entity: Entity) -> tuple[Ids, int]:
        """The turn that asks this member about `entity`, up to the answer cue; and how many tokens were cut from it.

        Raises:
            UserError: the entity is of another type than the task asks about.
        """
        ids = self.tokenizer.encode(self.suite.question_text(task, profile, entity.entity_type, entity.fields))
        kept = ids[: self.format.question_tokens - 2]
        return (self.tokenizer.user, *kept, self.tokenizer.assistant), len(ids) - len(kept)

    def turn(self, profile: Mapping[str, object], past: Past) -> tuple[Ids, Ids]:
        """One past interaction of this member: its question, and the ids of its answer.

        Raises:
            UserError: no task covers its surface, or that task has no such action.
        """
        task = self.suite.by_surface.get(past.surface)
        if task is None:
            raise UserError(
                f"surface {past.surface!r} is unknown; this model knows {', '.join(self.suite.by_surface)}."
            )
        answer = self._labels[task.name].get(past.action)
        if answer is None:
            raise UserError(
                f"action {past.action!r} is unknown on surface {past.surface!r}; known are {', '.join(task.labels)}."
            )
        return self.question(task, profile, past.entity)[0], answer

    def prefix(
        self,
        task: TaskSpec,
        profile: Mapping[str, object],
        history: Sequence[Past],
        *,
        before: int | None = None,
        own_words: str = "",
    ) -> Prefix:
        """Head and history: everything before the candidate.

        Args:
            history: the member's past interactions, sorted by time.
            before: only interactions strictly earlier than this are shown (microseconds); None shows all.

        Raises:
            UserError: as `turn`.
        """
        surfaces = set(task.history.surfaces)
        relevant = [p for p in history if p.surface in surfaces and (before is None or p.timestamp < before)]
        head, cut = self.head(task, profile, own_words)
        # Turns are only compiled for what may be shown: the newest max_interactions, plus the hop they are dropped by.
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

    def documents(self, profile: Mapping[str, object], history: Sequence[Past], *, turn_of: int = 0) -> list[Document]:
        """A member's interactions as training documents, none longer than the context.

        A document is the prompt that serving would build, with every answer filled in: head, turns, `<|end|>`. Tasks
        that show the same surfaces share documents, and take turns in lending the instruction.

        Args:
            history: sorted by time.
            turn_of: which task lends the instruction first; pass a hash of the member.

        Raises:
            UserError: as `turn`.
        """
        groups: dict[tuple[str, ...], list[TaskSpec]] = {}
        trained = {task.surface for task in self.suite.tasks if task.in_training}
        for task in self.suite.tasks:
            if task.in_training:
                groups.setdefault(tuple(s for s in task.history.surfaces if s in trained), []).append(task)
        documents: list[Document] = []
        for surfaces, tasks in groups.items():
            pending = [self.turn(profile, past) for past in history if past.surface in surfaces]
            while pending:
                head, _ = self.head(tasks[(turn_of + len(documents)) % len(tasks)], profile)
                ids, roles = list(head), [0] * len(head)
                taken = 0
                for question, answer in pending:
                    if len(ids) + len(question) + len(answer) + 1 > self.format.context_length:
                        break
                    ids += question + answer
                    roles += [0] * len(question) + [1] * len(answer)
                    taken += 1
                pending = pending[taken:]
                documents.append(Document(ids=(*ids, self.tokenizer.end), roles=(*roles, 0)))
        return documents

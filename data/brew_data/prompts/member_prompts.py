"""The prompts of one member: prefixes for any moment and candidate, and training documents.

Each past interaction is encoded once, however many prompts show it, so the time for a member's documents, or for the
prefixes of many moments, grows linearly with the history.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from brew_data.prompts.budget import NOTHING_CUT, Cut
from brew_data.prompts.chat import question_ids
from brew_data.prompts.entity import Entity, PastInteraction
from brew_data.prompts.fields import field_values
from brew_data.prompts.history import HistoryPolicy, first_kept, first_possible, hop_limit
from brew_data.prompts.history_policies import HistorySelector
from brew_data.prompts.tasks import TaskSpec
from brew_data.prompts.variation import Variation
from brew_data.prompts.watch import Watch, pass_through
from brew_data.segments import Segment
from brew_platform.errors import UserError

if TYPE_CHECKING:  # the compiler has shortcuts for the methods of this class
    from brew_data.prompts.compiler import PromptCompiler

__all__ = ["Document", "MemberPrompts", "Prefix", "Turn"]

Ids = tuple[int, ...]
_KEPT_TURNS = 50_000  # encoded turns in memory, about 1 KB each; prompts show the newest ones, so few are encoded again


class Turn(NamedTuple):
    """A past interaction as token ids: question and answer, and what was cut from the question."""

    question: Ids
    answer: Ids
    cut: Cut

    @property
    def length(self) -> int:
        return len(self.question) + len(self.answer)


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The part of a prompt before the candidate; candidates with the same history share it.

    Args:
        ids: Token ids.
        shown: The past interactions in the prefix: their places in the member's history in order of time, ascending.
        turns_dropped: The number of other interactions that the policy could show, and its maximum or the token budget
            excluded.
        head_cut: What was cut from instruction and profile.
        history_cut: What was cut from the entities of the shown interactions.
    """

    ids: Ids
    shown: Ids
    turns_dropped: int
    head_cut: Cut
    history_cut: Cut

    @property
    def turns(self) -> int:
        """The number of past interactions in the prefix."""
        return len(self.shown)


@dataclass(frozen=True, kw_only=True)
class Document:
    """A training document: a chat with its answers.

    Args:
        ids: Token ids, `<|end|>` last.
        roles: One per token: 1 for tokens of an answer that is trained, else 0.
        cut: What was cut from instruction, profile and entities.
        turns_dropped: The number of interactions that the prompts of a `slate` do not show.
        task: The name of the task whose instruction it has.
        turns: The interactions that its turns show, in order. The last ones of a `slate` are those that are trained.
        segments: Of a slate with several candidates: the prefix, then the candidates. (): the document is one segment.
    """

    ids: Ids
    roles: Ids
    cut: Cut = NOTHING_CUT
    turns_dropped: int = 0
    task: str = ""
    turns: tuple[PastInteraction, ...] = ()
    segments: tuple[Segment, ...] = ()


class MemberPrompts:
    """Builds the prompts of one member.

    Args:
        compiler: Encodes instructions, profiles, questions and answers.
        profile: The member's fields by name.
        history: The member's past interactions. They are sorted by time; those of the same time keep their order.

    Raises:
        UserError: As in `field_values`.
    """

    def __init__(
        self, compiler: "PromptCompiler", profile: Mapping[str, object], history: Iterable[PastInteraction]
    ) -> None:
        self._compiler, self._values = compiler, field_values(profile)
        self._history = sorted(history, key=attrgetter("timestamp"))
        self._turns: dict[tuple[int, int | None], Turn] = {}
        self._heads: dict[tuple[str, str], tuple[Ids, Cut]] = {}
        self._selectors: dict[HistoryPolicy, HistorySelector] = {}

    def prefix(
        self,
        task: TaskSpec,
        *,
        candidate: Entity | None = None,
        before: int | None = None,
        own_words: str = "",
        watch: Watch = pass_through,
    ) -> Prefix:
        """Render head and history: everything before the candidate.

        Args:
            task: The task whose instruction and history policy are used.
            candidate: The entity of the prompt's question; None unless the policy depends on it.
            before: Only interactions strictly earlier than this time (microseconds) are shown; None shows all.
            own_words: As in `PromptCompiler.head`.
            watch: Passes the interactions of the loop through.

        Raises:
            UserError: As in `PromptCompiler.turn`, or the policy depends on a candidate and there is none.
        """
        policy = self._compiler.policy(task)
        if candidate is None and policy.depends_on_candidate:
            raise UserError(
                f"task {task.name}: its history policy {policy.name} depends on the candidate, but there is none. Pass "
                f"the entity that the prompt asks about."
            )
        shown = self._select(task, candidate, before, own_words, watch)
        return self.prefix_of(task, shown, before=before, own_words=own_words)

    def prefixes(
        self,
        task: TaskSpec,
        candidates: Sequence[Entity],
        *,
        before: int | None = None,
        own_words: str = "",
        most_tokens: int | None = None,
        watch: Watch = pass_through,
    ) -> list[Prefix]:
        """Render what precedes each of several candidates, as `prefix`.

        Args:
            most_tokens: The maximum number of tokens of all different prefixes together; None: no limit.
            watch: Passes the interactions and candidates of the loops through.

        Returns:
            One prefix per candidate; the same object for all candidates whose prompts show the same interactions.

        Raises:
            UserError: As in `PromptCompiler.turn`, or the prefixes have more than `most_tokens`.
        """
        if not self._compiler.policy(task).depends_on_candidate:
            return [self.prefix(task, before=before, own_words=own_words, watch=watch)] * len(candidates)
        found: dict[Ids, Prefix] = {}
        prefixes: list[Prefix] = []
        tokens = 0
        for candidate in watch(candidates):
            shown = self._select(task, candidate, before, own_words, watch)
            if shown not in found:
                found[shown] = self.prefix_of(task, shown, before=before, own_words=own_words)
                tokens += len(found[shown].ids)
                if most_tokens is not None and tokens > most_tokens:
                    raise UserError(
                        f"the prompts of this request have more than {most_tokens} tokens in all, because each "
                        f"candidate of task {task.name} has a history of its own. Send fewer candidates."
                    )
            prefixes.append(found[shown])
        return prefixes

    def prefix_of(
        self, task: TaskSpec, shown: Iterable[int], *, before: int | None = None, own_words: str = ""
    ) -> Prefix:
        """Render head and history, as `prefix`, with a choice of interactions instead of the policy's.

        Args:
            shown: Places in the history, ascending. Neither the token budget nor the policy's filters apply to them.
        """
        head, head_cut = self._head(task, own_words)
        places = tuple(shown)
        turns = self.turns(task, places)
        return Prefix(
            ids=(*head, *chain.from_iterable(chain(turn.question, turn.answer) for turn in turns)),
            shown=places,
            turns_dropped=self.visible(task, before) - len(places),
            head_cut=head_cut,
            history_cut=sum((turn.cut for turn in turns), NOTHING_CUT),
        )

    def fill(
        self,
        task: TaskSpec,
        *,
        budget: int,
        candidate: Entity | None = None,
        before: int | None = None,
        watch: Watch = pass_through,
    ) -> Ids:
        """Select past interactions in the order of the policy, until one exceeds what is left of a budget.

        Unlike `prefix`, the chronological policy leaves no part of the budget for a steady start of its window.

        Args:
            budget: The maximum number of tokens of all selected turns together.

        Returns:
            Places in the history, ascending: in order of time.
        """
        policy = self._compiler.policy(task)
        taken: list[int] = []
        for index in watch(self._selector(policy).ranked(before, candidate)[: policy.max_interactions]):
            budget -= self._turn(index, policy).length
            if budget < 0:
                break
            taken.append(index)
        return tuple(sorted(taken))

    def turns(self, task: TaskSpec, shown: Iterable[int]) -> list[Turn]:
        """Render interactions as the history policy of a task shows them.

        Args:
            shown: Places in the history.
        """
        policy = self._compiler.policy(task)
        return [self._turn(index, policy) for index in shown]

    def visible(self, task: TaskSpec, before: int | None) -> int:
        """Return the number of interactions that the policy can show at a moment, whatever the budget."""
        return len(self._selector(self._compiler.policy(task)).visible(before))

    def documents(
        self,
        *,
        turn_of: int = 0,
        variation: Callable[[int], Variation] | None = None,
        after: int | None = None,
        slates: bool = False,
    ) -> list[Document]:
        """Render the member's interactions as training documents, none longer than the context.

        A task that trains on whole histories (`TaskSpec.trains_on_examples` is False) has documents of head, turns with
        all answers, `<|end|>`. Such tasks share documents if their histories show the same surfaces; the documents use
        their instructions in turn. Every other task trains on an `example` for each of the newest interactions on its
        surface, or on a `slate` for several of them. Surfaces without a trained task are not shown.

        Args:
            turn_of: Selects the task whose instruction the first document uses; pass a hash of the member.
            variation: Returns the forms of a document by its number; None: the first forms, as in serving.
            after: Only interactions later than this time (microseconds) are trained. Whole histories then begin with
                earlier turns, without loss, in up to half of the context. None: all are trained.
            slates: Whether examples of a task whose prompts begin alike share a document.

        Returns:
            The documents: whole histories first, then examples or slates.

        Raises:
            UserError: As in `PromptCompiler.turn`.
        """
        trained = [task for task in self._compiler.suite.tasks if task.in_training]
        whole = [task for task in trained if not task.trains_on_examples]
        on_surface: dict[str, list[int]] = {task.surface: [] for task in trained}
        for index, past in enumerate(self._history):
            if past.surface in on_surface:
                on_surface[past.surface].append(index)
        groups: dict[tuple[str, ...], list[TaskSpec]] = {}
        for task in whole:
            groups.setdefault(tuple(name for name in task.history.surfaces if name in on_surface), []).append(task)
        answered = {task.surface for task in whole}
        documents: list[Document] = []
        for surfaces, tasks in groups.items():
            left = sorted(chain.from_iterable(on_surface[name] for name in dict.fromkeys(surfaces)))
            start = sum(not self._is_later(index, after) for index in left)
            while start < len(left):
                task = tasks[(turn_of + len(documents)) % len(tasks)]
                form = self._varied(task, variation, len(documents))
                document, start = form._whole(task, left, start, answered, shows_earlier=after is not None)
                documents.append(document)
        if len(whole) < len(trained):
            shown = [past for past in self._history if past.surface in on_surface]
            seen = self if len(shown) == len(self._history) else MemberPrompts(self._compiler, self._values, shown)
            for task in trained:
                if task.trains_on_examples:
                    later = [index for index in on_surface[task.surface] if self._is_later(index, after)]
                    scored = [self._history[index] for index in later[-task.examples_per_member :]]
                    while scored:
                        form = seen._varied(task, variation, len(documents))
                        document, count = form.slate(task, scored if slates else scored[:1])
                        documents.append(document)
                        scored = scored[count:]
        return documents

    def example(self, task: TaskSpec, scored: PastInteraction) -> Document:
        """Render the prompt that serving builds for an interaction, with its answer: a `slate` of one candidate."""
        document, _ = self.slate(task, [scored])
        return document

    def slate(self, task: TaskSpec, scored: Sequence[PastInteraction]) -> tuple[Document, int]:
        """Render the prompts that serving builds for interactions, each with its answer, so that they share a prefix.

        The document has the prefix of the last interaction, then for each interaction its question, the outcome's label
        and `<|end|>`. Each prefix must continue the one before; a candidate attends to the part that is its own. The
        document ends before the first interaction whose prefix does not, or which exceeds the context.

        Args:
            task: The task that predicts the outcomes. Its surface must be the surface of the interactions.
            scored: The interactions to predict, in order of time; at least one. Each prompt shows interactions that are
                strictly earlier.

        The answer can include `<|end|>` (`PromptCompiler.labels`); it is then trained.

        Returns:
            The document, and how many of the interactions it predicts; at least one.

        Raises:
            UserError: As in `PromptCompiler.turn`.
        """
        prefix: Prefix | None = None
        candidates: list[Document] = []
        segments: list[Segment] = []
        tokens = 0
        for past in scored:
            own = self.prefix(task, candidate=past.entity, before=past.timestamp)
            question, cut = self._compiler.question_of(task, self._values, past.entity)
            answer = self._compiler.label(task, past.action)
            roles = [0] * len(question) + [1] * len(answer)
            candidate = self._ended((*question, *answer), roles, cut=cut, turns_dropped=own.turns_dropped)
            tokens += len(candidate.ids)
            if prefix is not None and (
                own.ids[: len(prefix.ids)] != prefix.ids or len(own.ids) + tokens > self._compiler.format.context_length
            ):
                break
            prefix = own
            candidates.append(candidate)
            segments.append(Segment(tokens=len(candidate.ids), prefix=len(own.ids)))
        assert prefix is not None, "a slate has at least one candidate"
        document = Document(
            ids=(*prefix.ids, *chain.from_iterable(candidate.ids for candidate in candidates)),
            roles=(*(0 for _ in prefix.ids), *chain.from_iterable(candidate.roles for candidate in candidates)),
            cut=sum((candidate.cut for candidate in candidates), prefix.head_cut + prefix.history_cut),
            turns_dropped=sum(candidate.turns_dropped for candidate in candidates),
            task=task.name,
            turns=(*(self._history[index] for index in prefix.shown), *scored[: len(candidates)]),
            segments=(Segment(tokens=len(prefix.ids), prefix=0), *segments) if len(candidates) > 1 else (),
        )
        return document, len(candidates)

    def _varied(self, task: TaskSpec, variation: Callable[[int], Variation] | None, document: int) -> "MemberPrompts":
        """Return the prompts in the forms of one document. The selection of interactions does not depend on them."""
        compiler = self._compiler if variation is None else self._compiler.varied(task, variation(document))
        if compiler is self._compiler:  # the first forms
            return self
        form = copy(self)
        form._compiler, form._turns, form._heads = compiler, {}, {}
        return form

    def _is_later(self, index: int, after: int | None) -> bool:
        return after is None or self._history[index].timestamp > after

    def _whole(
        self, task: TaskSpec, left: Sequence[int], start: int, answered: set[str], *, shows_earlier: bool
    ) -> tuple[Document, int]:
        """Return a document with as many turns as fit, from `left[start]` on, and the place of the next one.

        Args:
            task: The task whose instruction is used.
            left: Places in the history.
            start: A place in `left`.
            answered: The surfaces whose answers are trained.
            shows_earlier: Begin with the turns before `start`, without loss, in up to half of the context.
        """
        head, cut = self._head(task, "")
        ids, roles = list(head), [0] * len(head)
        first = start
        if shows_earlier:
            budget = (
                self._compiler.format.context_length // 2 - len(head) - self._turn(left[start], task.history).length
            )
            while first > 0 and (budget := budget - self._turn(left[first - 1], task.history).length) >= 0:
                first -= 1
        end = len(left)
        for place in range(first, len(left)):
            turn = self._turn(left[place], task.history)
            if len(ids) + turn.length + 1 > self._compiler.format.context_length:
                end = place
                break
            ids += turn.question + turn.answer
            role = int(place >= start and self._history[left[place]].surface in answered)
            roles += [0] * len(turn.question) + [role] * len(turn.answer)
            cut += turn.cut
        turns = tuple(self._history[index] for index in left[first:end])
        return self._ended(ids, roles, cut=cut, task=task.name, turns=turns), end

    def _ended(self, ids: Sequence[int], roles: Sequence[int], **values: Any) -> Document:
        """Return a document that ends with `<|end|>`, which a last answer can bring itself."""
        end = self._compiler.tokenizer.end
        if ids[-1] == end:
            return Document(ids=tuple(ids), roles=tuple(roles), **values)
        return Document(ids=(*ids, end), roles=(*roles, 0), **values)

    def _select(
        self, task: TaskSpec, candidate: Entity | None, before: int | None, own_words: str, watch: Watch
    ) -> Ids:
        """Return the places of the interactions that a prompt shows, in order of time."""
        compiler, policy = self._compiler, self._compiler.policy(task)
        budget = compiler.prefix_budget - len(self._head(task, own_words)[0])
        if policy.name != "chronological":
            return self.fill(task, budget=budget, candidate=candidate, before=before, watch=watch)
        visible = self._selector(policy).visible(before)
        # A head can be shorter than its budget, so the budget of history varies; the boundaries must not vary with it.
        history = compiler.prefix_budget - compiler.format.head_tokens
        most = policy.max_interactions or history // (len(question_ids(compiler.tokenizer, ())) + 1)
        possible = visible[first_possible(len(visible), most) :].tolist()  # only these are encoded
        lengths = [self._turn(index, policy).length for index in watch(possible)]
        hop = hop_limit(policy.hop_tokens, history)
        return tuple(possible[first_kept(lengths, budget=budget, hop=hop, most=most) :])

    def _head(self, task: TaskSpec, own_words: str) -> tuple[Ids, Cut]:
        key = task.name, own_words
        if key not in self._heads:
            self._heads[key] = self._compiler.head_of(task, self._values, own_words)
        return self._heads[key]

    def _turn(self, index: int, policy: HistoryPolicy) -> Turn:
        key = index, policy.entity_tokens
        if key not in self._turns:
            if len(self._turns) == _KEPT_TURNS:
                self._turns.clear()
            self._turns[key] = self._compiler.turn_of(self._values, self._history[index], policy.entity_tokens)
        return self._turns[key]

    def _selector(self, policy: HistoryPolicy) -> HistorySelector:
        if policy not in self._selectors:
            self._selectors[policy] = HistorySelector(policy, self._compiler.suite, self._history)
        return self._selectors[policy]

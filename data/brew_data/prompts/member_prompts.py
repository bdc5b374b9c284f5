"""The prompts of one member: prefixes for any moment and candidate.

Each past interaction is encoded once, however many prompts show it, so the time for the prefixes of many moments,
or for a member's training documents, grows linearly with the history.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from brew_data.prompts.budget import NOTHING_CUT, Cut
from brew_data.prompts.chat import question_ids
from brew_data.prompts.entity import Entity, PastInteraction
from brew_data.prompts.fields import field_values
from brew_data.prompts.history import HistoryPolicy, first_kept, first_possible, hop_limit
from brew_data.prompts.history_policies import HistorySelector
from brew_data.prompts.tasks import TaskSpec
from brew_data.prompts.watch import Watch, pass_through
from brew_platform.errors import UserError

if TYPE_CHECKING:  # the compiler has shortcuts for the methods of this class
    from brew_data.prompts.compiler import PromptCompiler

__all__ = ["MemberPrompts", "Prefix", "Turn"]

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
        self._turns: dict[int | None, _Turns] = {}  # by `HistoryPolicy.entity_tokens`
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
        turns = self._turns_of(policy)
        for index in watch(self._selector(policy).ranked(before, candidate)[: policy.max_interactions]):
            budget -= turns[index].length
            if budget < 0:
                break
            taken.append(index)
        return tuple(sorted(taken))

    def turns(self, task: TaskSpec, shown: Iterable[int]) -> list[Turn]:
        """Render interactions as the history policy of a task shows them.

        Args:
            shown: Places in the history.
        """
        turns = self._turns_of(self._compiler.policy(task))
        return [turns[index] for index in shown]

    def visible(self, task: TaskSpec, before: int | None) -> int:
        """Return the number of interactions that the policy can show at a moment, whatever the budget."""
        return len(self._selector(self._compiler.policy(task)).visible(before))

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
        turns = self._turns_of(policy)
        lengths = [turns[index].length for index in watch(possible)]
        hop = hop_limit(policy.hop_tokens, history)
        return tuple(possible[first_kept(lengths, budget=budget, hop=hop, most=most) :])

    def _head(self, task: TaskSpec, own_words: str) -> tuple[Ids, Cut]:
        key = task.name, own_words
        if key not in self._heads:
            self._heads[key] = self._compiler.head_of(task, self._values, own_words)
        return self._heads[key]

    def _turns_of(self, policy: HistoryPolicy) -> "_Turns":
        """Return the encoded turns of the history as a policy shows them, by place; a missing one is encoded."""
        tokens = policy.entity_tokens
        if tokens not in self._turns:
            compiler, values, history = self._compiler, self._values, self._history
            self._turns[tokens] = _Turns(lambda index: compiler.turn_of(values, history[index], tokens))
        return self._turns[tokens]

    def _selector(self, policy: HistoryPolicy) -> HistorySelector:
        if policy not in self._selectors:
            self._selectors[policy] = HistorySelector(policy, self._compiler.suite, self._history)
        return self._selectors[policy]


class _Turns(dict[int, Turn]):
    """Turns by their place in the history. A missing one is encoded and kept, and all are dropped at `_KEPT_TURNS`."""

    def __init__(self, encode: Callable[[int], Turn]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, index: int) -> Turn:
        if len(self) == _KEPT_TURNS:
            self.clear()
        turn = self[index] = self._encode(index)
        return turn

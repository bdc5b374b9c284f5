"""The training documents of one member: whole histories, and the prompts of serving with their answers."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain
from typing import Any

from brew_data.prompts.budget import NOTHING_CUT, Cut
from brew_data.prompts.entity import PastInteraction
from brew_data.prompts.member_prompts import MemberPrompts, Prefix
from brew_data.prompts.tasks import TaskSpec
from brew_data.prompts.variation import Variation
from brew_data.segments import Segment

__all__ = ["Document", "MemberDocuments"]

Ids = tuple[int, ...]


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


class MemberDocuments(MemberPrompts):
    """Renders the interactions of one member as training documents.

    Args and errors are those of `MemberPrompts`.
    """

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
            seen = self if len(shown) == len(self._history) else MemberDocuments(self._compiler, self._values, shown)
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
        document ends before the first interaction whose prefix does not, or which exceeds the context. An answer can
        include `<|end|>` (`PromptCompiler.labels`); it is then trained.

        Args:
            task: The task that predicts the outcomes. Its surface must be the surface of the interactions.
            scored: The interactions to predict, in order of time; at least one. Each prompt shows interactions that are
                strictly earlier.

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
            roles = (0,) * len(question) + (1,) * len(answer)
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
            ids=prefix.ids + tuple(chain.from_iterable(candidate.ids for candidate in candidates)),
            roles=(0,) * len(prefix.ids) + tuple(chain.from_iterable(candidate.roles for candidate in candidates)),
            cut=sum((candidate.cut for candidate in candidates), prefix.head_cut + prefix.history_cut),
            turns_dropped=sum(candidate.turns_dropped for candidate in candidates),
            task=task.name,
            turns=(*(self._history[index] for index in prefix.shown), *scored[: len(candidates)]),
            segments=(Segment(tokens=len(prefix.ids), prefix=0), *segments) if len(candidates) > 1 else (),
        )
        return document, len(candidates)

    def _varied(self, task: TaskSpec, variation: Callable[[int], Variation] | None, document: int) -> "MemberDocuments":
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
        turns = self._turns_of(task.history)
        ids, roles = list(head), [0] * len(head)
        first = start
        if shows_earlier:
            budget = self._compiler.format.context_length // 2 - len(head) - turns[left[start]].length
            while first > 0 and (budget := budget - turns[left[first - 1]].length) >= 0:
                first -= 1
        end = len(left)
        for place in range(first, len(left)):
            turn = turns[left[place]]
            if len(ids) + turn.length + 1 > self._compiler.format.context_length:
                end = place
                break
            ids += turn.question + turn.answer
            role = int(place >= start and self._history[left[place]].surface in answered)
            roles += [0] * len(turn.question) + [role] * len(turn.answer)
            cut += turn.cut
        shown = tuple(self._history[index] for index in left[first:end])
        return self._ended(ids, roles, cut=cut, task=task.name, turns=shown), end

    def _ended(self, ids: Sequence[int], roles: Sequence[int], **values: Any) -> Document:
        """Return a document that ends with `<|end|>`, which a last answer can bring itself."""
        end = self._compiler.tokenizer.end
        if ids[-1] == end:
            return Document(ids=tuple(ids), roles=tuple(roles), **values)
        return Document(ids=(*ids, end), roles=(*roles, 0), **values)

"""Filters and ranks a member's past interactions by a history policy, for any moment and any candidate.

A selector reads a member's history once. For a moment, only interactions that are strictly earlier are visible; no
figure that ranks them depends on later ones. `brew_data.prompts.member_prompts` takes from the ranking until the token
budget is full, and shows what it took in order of time.

Similarity is the cosine of the words of two entities, each word weighted by its inverse document frequency (IDF) in
the visible history, so that words of all its entities count little. It is multiplied by 2^(-age / half-life).
Interactions without a common word follow, the newest first. No model is needed, and every path ranks alike.

Array names: R = rows (interactions that pass the filters, oldest first), V = visible rows, W = different words, N = all
words of all rows.

Source: 360Brew, arXiv 2501.16450, sections 6.2.3 and 7.1 (history construction).
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import zip_longest

import numpy as np

from brew_data.prompts.entity import Entity, PastInteraction
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import TaskSuite

__all__ = ["HistorySelector"]

_WORD = re.compile(r"\w+")
_DAY = 86_400_000_000  # microseconds
_HASHES = 2**64  # number of values of a hash of 8 bytes


class HistorySelector:
    """Selects interactions of one member by one policy.

    Args:
        policy: The policy.
        suite: Knows the actions of each surface, from the most valuable one on, and the fields of entities.
        history: The member's past interactions, sorted by time. All results are indices of this sequence.

    Raises:
        UserError: As in `Entity.values`. Methods raise it too, also for an unknown action of a surface.
    """

    def __init__(self, policy: HistoryPolicy, suite: TaskSuite, history: Sequence[PastInteraction]) -> None:
        self._policy, self._suite = policy, suite
        surfaces = set(policy.surfaces)
        indices = [index for index, past in enumerate(history) if past.surface in surfaces]
        if policy.positives_only:
            positives = suite.positives
            indices = [index for index in indices if history[index].action in positives[history[index].surface]]
        if policy.keep:
            indices = [index for index in indices if self._is_kept(history[index])]
        self._past = [history[index] for index in indices]  # of each row
        self._index_R = np.array(indices, np.int64)
        self._time_R = np.array([past.timestamp for past in self._past], np.int64)
        self._row_R = np.arange(len(indices))
        self._weights_at: tuple[int | None, np.ndarray, np.ndarray] | None = None  # a moment, and `_weights` of it

    def visible(self, before: int | None) -> np.ndarray:
        """Return the interactions that can be shown at a moment, oldest first.

        Args:
            before: Microseconds since 1970, UTC; only strictly earlier interactions are visible. None: all are.

        Returns:
            int64, ascending.
        """
        rows = self._rows(before)
        return self._index_R[rows] if self._policy.deduplicate else self._index_R[: len(rows)]

    def ranked(self, before: int | None, candidate: Entity | None) -> list[int]:
        """Return the visible interactions in the order in which the policy takes them.

        Args:
            before: As in `visible`.
            candidate: The entity of the prompt's last question; None unless the policy depends on it.
        """
        row_V = self._rows(before)
        if self._policy.name == "round_robin":
            row_V = self._in_turn(row_V)
        elif self._policy.name == "similarity":
            assert candidate is not None
            row_V = self._by_similarity(row_V, candidate, before)
        else:
            row_V = row_V[::-1]
        ranked: list[int] = self._index_R[row_V].tolist()
        return ranked

    def _rows(self, before: int | None) -> np.ndarray:
        """Return the visible rows."""
        count = len(self._row_R) if before is None else int(np.searchsorted(self._time_R, before, side="left"))
        return np.flatnonzero(self._end_R[:count] >= count) if self._policy.deduplicate else self._row_R[:count]

    @cached_property
    def _end_R(self) -> np.ndarray:
        """The largest number of earlier rows with which a row is visible if each entity is shown once.

        An interaction hides an earlier one with the same entity, unless that one's action is more valuable.
        """
        priorities = self._priority_R.tolist()
        end_R = [len(priorities)] * len(priorities)
        shown: dict[str, int] = {}
        for row, priority in enumerate(priorities):
            key = self._key(self._past[row].entity)
            earlier = shown.get(key)
            if earlier is not None and priorities[earlier] < priority:
                end_R[row] = row
                continue
            if earlier is not None:
                end_R[earlier] = row
            shown[key] = row
        return np.array(end_R, np.int64)

    @cached_property
    def _priority_R(self) -> np.ndarray:
        """The place of each row's action among those of its surface; 0 is the most valuable one."""
        places = {
            (surface.name, action.name): place
            for surface in self._suite.surfaces
            for place, action in enumerate(surface.actions)
        }
        found = []
        for past in self._past:
            if (past.surface, past.action) not in places:
                self._suite.surface(past.surface).label(past.action)  # raises
            found.append(places[past.surface, past.action])
        return np.array(found, np.int64)

    @cached_property
    def _group_R(self) -> np.ndarray:
        """The place of each row's action in a round of `_in_turn`."""
        places = {name: place for place, name in enumerate(dict.fromkeys(self._policy.surfaces))}
        surface_R = np.array([places[past.surface] for past in self._past], np.int64)
        return self._priority_R * len(places) + surface_R

    def _in_turn(self, row_V: np.ndarray) -> np.ndarray:
        """Return rows in rounds: each round has the newest remaining row of each action, the most valuable first.

        Actions with the same place are ordered as the policy's surfaces are.
        """
        group_V = self._group_R[row_V]
        queues = [row_V[group_V == group][::-1].tolist() for group in np.unique(group_V)]
        rounds = zip_longest(*queues)
        return np.array([row for round_ in rounds for row in round_ if row is not None], np.int64)

    def _by_similarity(self, row_V: np.ndarray, candidate: Entity, before: int | None) -> np.ndarray:
        weight_W, length_R = self._weights(row_V, before)
        common_R = np.zeros(len(self._index_R))
        for word in dict.fromkeys(self._words(candidate)):
            if (number := self._number_of.get(word)) is not None:
                common_R[self._rows_of[number]] += weight_W[number]
        # The length of the candidate's vector is the same for all rows, so it does not change their order.
        cosine_V = common_R[row_V] / np.maximum(length_R[row_V], np.finfo(np.float64).tiny)
        with np.errstate(divide="ignore", over="ignore"):  # no common word: minus infinity
            age_V = (self._time_R[row_V[-1:]] - self._time_R[row_V]) / (self._policy.half_life_days * _DAY)
            score_V = np.log2(cosine_V) - age_V
        return row_V[np.lexsort((row_V, score_V))[::-1]]

    def _weights(self, row_V: np.ndarray, before: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the squared weight of each word, and the length of each row's vector; kept for the next candidate."""
        if self._weights_at is None or self._weights_at[0] != before:
            is_visible_R = np.zeros(len(self._row_R), bool)
            is_visible_R[row_V] = True
            word_N, row_N = self._word_N, self._row_N
            count_W = np.bincount(word_N[is_visible_R[row_N]], minlength=len(self._number_of))
            weight_W = np.log((1 + len(row_V)) / (0.5 + count_W)) ** 2
            length_R = np.sqrt(np.bincount(row_N, weights=weight_W[word_N], minlength=len(self._index_R)))
            self._weights_at = before, weight_W, length_R
        return self._weights_at[1:]

    @cached_property
    def _number_of(self) -> dict[str, int]:
        """The number of each word."""
        different = dict.fromkeys(word for words in self._words_of_row for word in words)
        return {word: number for number, word in enumerate(different)}

    @cached_property
    def _words_of_row(self) -> list[list[str]]:
        """The different words of each row."""
        return [list(dict.fromkeys(self._words(past.entity))) for past in self._past]

    @cached_property
    def _word_N(self) -> np.ndarray:
        return np.array([self._number_of[word] for words in self._words_of_row for word in words], np.int64)

    @cached_property
    def _row_N(self) -> np.ndarray:
        return np.repeat(self._row_R, np.array([len(words) for words in self._words_of_row], np.int64))

    @cached_property
    def _rows_of(self) -> list[np.ndarray]:
        """The rows with each word."""
        count_W = np.bincount(self._word_N, minlength=len(self._number_of))
        return np.split(self._row_N[np.argsort(self._word_N, kind="stable")], np.cumsum(count_W)[:-1])

    def _is_kept(self, past: PastInteraction) -> bool:
        share = self._policy.keep.get(past.action, 1.0)
        if share in (0, 1):
            return share == 1
        text = json.dumps([past.surface, past.timestamp, self._key(past.entity)])
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) < share * _HASHES

    def _key(self, entity: Entity) -> str:
        """Identify an entity by its declared fields: requests with inline histories have no ids."""
        return json.dumps([entity.entity_type, *self._shown(entity)])

    def _words(self, entity: Entity) -> Iterator[str]:
        for _, text in self._shown(entity):
            yield from _WORD.findall(text.casefold())

    def _shown(self, entity: Entity) -> list[tuple[str, str]]:
        """Return names and texts of the declared fields that are present."""
        template, values = self._suite.entities.get(entity.entity_type), entity.values
        return [(name, values[name]) for name in (template.fields if template else ()) if name in values]

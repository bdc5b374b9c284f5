"""The policy that selects the past interactions of a prompt, and the window of the chronological policy.

The window of shown turns starts at a boundary. Boundaries divide the history, from its first turn on, into groups: a
group ends after `hop` tokens, and after a share of the maximum number of turns. New turns do not move the boundaries,
so the start of the window moves only when a whole group leaves it, and the prefix cache serves the prompts in between.

The newest turns that fit are always shown: a group is smaller than the budget, unless it is one turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, ClassVar

from brew_data.prompts.suite_format import ADDED
from brew_platform.settings import OneOf, PositiveFloat, PositiveInt, Range, Settings, Share

__all__ = ["HOP_SHARE", "HistoryPolicy", "first_kept", "first_possible", "hop_limit"]

HOP_SHARE = 0.25  # the largest part of the budget, and of the maximum number of turns, that leaves at a time


@dataclass(frozen=True, kw_only=True)
class HistoryPolicy(Settings):
    """Selects the past interactions that a prompt shows. They are strictly earlier than the candidate, in time order.

    The options filter the interactions; the policy says which of the others are taken first, until the token budget or
    `max_interactions` is reached (`brew_data.prompts.history_policies`).

    Args:
        surfaces: Interactions on these surfaces are shown.
        name: `chronological`: the newest first. `round_robin`: in turn the newest of each action, beginning with the
            first one of the surface's `actions`, which is the most valuable. `similarity`: first those whose entity
            shares words with the candidate, weighted by their age.
        max_interactions: The maximum number of interactions; None: as many as the token budget allows.
        hop_tokens: Tokens of the oldest interactions that `chronological` drops at a time, so that the prefix of a
            member's next prompt is usually cached. It is capped at a quarter of the budget.
        positives_only: Show only actions that are positive for a task of their surface.
        keep: The share of the interactions that is shown, by name of the action; all of those with other actions. Which
            ones is decided by a hash of surface, time and entity, so that every prompt keeps the same ones.
        deduplicate: Show each entity once: the newest of its interactions with the most valuable action.
        entity_tokens: The maximum number of tokens of a past question with its entity, which is shortened like a
            candidate's; None: the prompt format's `question_tokens`.
        half_life_days: The age that halves the weight of an interaction for `similarity`.

    Raises:
        ConfigError: A value is out of its range.
    """

    RENAMED: ClassVar[Mapping[str, str]] = MappingProxyType({"hop": "hop_tokens (counted in tokens, not in turns)"})

    surfaces: list[str]
    name: Annotated[str, OneOf(("chronological", "round_robin", "similarity"))] = field(
        default="chronological", metadata=ADDED
    )
    max_interactions: PositiveInt | None = 200
    hop_tokens: PositiveInt = 256
    positives_only: bool = field(default=False, metadata=ADDED)
    keep: dict[str, Share] = field(default_factory=dict, metadata=ADDED)
    deduplicate: bool = field(default=False, metadata=ADDED)
    entity_tokens: Annotated[int, Range(ge=4)] | None = field(default=None, metadata=ADDED)
    half_life_days: PositiveFloat = field(default=30.0, metadata=ADDED)

    def __hash__(self) -> int:
        return hash((self.name, *self.surfaces))

    @property
    def depends_on_candidate(self) -> bool:
        """Whether candidates of one request can have different histories."""
        return self.name == "similarity"

    @property
    def is_plain(self) -> bool:
        """Whether the history of a moment continues the history of each earlier moment, turn by turn.

        A member's whole history can then be one training document. Otherwise, each trained interaction needs a document
        of its own: options hide the very interactions that a task learns to predict.
        """
        changed = self.positives_only or self.keep or self.deduplicate or self.entity_tokens is not None
        return self.name == "chronological" and not changed


def hop_limit(hop_tokens: int, budget: int) -> int:
    """Return the number of tokens that leave at a time: `hop_tokens`, at most a share of the budget, at least 1."""
    return max(1, min(hop_tokens, int(HOP_SHARE * budget)))


def first_possible(turns: int, most: int) -> int:
    """Return the index of the oldest turn that a window can show; it is a boundary.

    Args:
        turns: The number of turns of the whole history.
        most: The maximum number of turns to keep; at least 1.
    """
    oldest = max(0, turns - most)
    return oldest - oldest % _group_turns(most)


def first_kept(lengths: Sequence[int], *, budget: int, hop: int, most: int) -> int:
    """Return the index of the oldest turn to keep: the first boundary from which both limits hold.

    If no turn is longer than the hop, more than `budget - hop` tokens are kept of a history that exceeds the budget. A
    longer turn is a group of its own.

    Args:
        lengths: Tokens of each turn, oldest first, from `first_possible` on.
        budget: The maximum number of tokens of all kept turns together.
        hop: Tokens that leave at a time; at least 1 and at most `budget`.
        most: The maximum number of turns to keep; at least 1.

    Returns:
        The index in `lengths`, or `len(lengths)` if the newest turn exceeds the budget.
    """
    left = sum(lengths)
    turns_of_group, in_group = _group_turns(most), 0
    for index, length in enumerate(lengths):
        if index % turns_of_group == 0 or in_group + length > hop:  # a boundary
            if left <= budget and len(lengths) - index <= most:
                return index
            in_group = 0
        in_group += length
        left -= length
    return len(lengths)


def _group_turns(most: int) -> int:
    return max(1, int(HOP_SHARE * most))

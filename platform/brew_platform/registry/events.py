"""What happened to the versions of a model: events, the gates that decided, and the aliases that follow from them.

Holds the event types and the fold from events to aliases, pure functions.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from brew_platform.errors import RegistryError, UserError

__all__ = [
    "KINDS",
    "SHARED",
    "Event",
    "GateOutcome",
    "alias_histories",
    "aliases",
    "last_moves",
    "retired",
    "rollback_target",
]

SHARED = ("canary", "shadow")  # these give the version of the alias of their name a share of the traffic
MOVES = ("promote", "rollback", *SHARED)  # these point an alias at their version; the other kinds only record
KINDS = (*MOVES, "blocked", "failed", "approve", "retire", "tag")  # failed: a service could not load the version


@dataclass(frozen=True)
class GateOutcome:
    """One gate of a promotion: the measured value, its threshold, and whether it passed.

    Raises:
        UserError: a gate passed without a finite value.
    """

    name: str
    value: float | None  # None: could not be measured
    threshold: float
    passed: bool

    def __post_init__(self) -> None:
        if self.passed and (self.value is None or not math.isfinite(self.value)):
            raise UserError(
                f"gate {self.name} passed with value {self.value}: only a finite value can pass. Measure it."
            )
        if self.value is not None and not math.isfinite(self.value):
            object.__setattr__(self, "value", None)  # JSON has no NaN

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "failed"
        value = "not measured" if self.value is None else f"value {self.value:.6g}"
        return f"gate {self.name} {verdict} ({value}, threshold {self.threshold:.6g})"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One entry of a model's log."""

    number: int  # position in the log, from 1
    kind: str  # one of KINDS
    version: int  # the version that it is about; for a move, where the alias points from now on
    alias: str | None  # the alias that it moves, or that a blocked promotion would have moved
    author: str
    time: str  # ISO 8601, UTC
    gates: tuple[GateOutcome, ...] = ()
    note: str = ""
    share: float | None = None  # of the traffic, 0 to 1; canary and shadow only
    write_id: str = ""  # unique to the write

    @classmethod
    def from_document(cls, number: int, document: Mapping[str, Any]) -> "Event":
        """The event that a stored document holds; fields that a later release added are left out.

        Raises:
            RegistryError: a field is missing.
        """
        try:
            return cls(
                number=number,
                kind=document["kind"],
                version=document["version"],
                alias=document["alias"],
                author=document["author"],
                time=document["time"],
                gates=tuple(GateOutcome(**gate) for gate in document["gates"]),
                note=document["note"],
                share=document.get("share"),  # events of earlier releases have none
                write_id=document["write_id"],
            )
        except (KeyError, TypeError) as error:
            raise RegistryError(
                f"event {number} is damaged: {error}. Restore its object from a backup of the store."
            ) from error

    def document(self) -> dict[str, Any]:
        """What is stored: all fields but the number, which is the key's, and a share where there is none."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name != "number" and (name != "share" or value is not None)
        }


def alias_histories(events: Iterable[Event]) -> dict[str, list[int]]:
    """For each alias the versions it can be rolled back through, oldest first; the last is where it points.

    A promotion adds its version; a rollback drops what came after the version that it names.
    """
    histories: dict[str, list[int]] = {}
    for event in events:
        if event.kind not in MOVES or event.alias is None:
            continue
        history = histories.setdefault(event.alias, [])
        if event.kind == "rollback" and event.version in history:
            while history[-1] != event.version:
                history.pop()
        elif not history or history[-1] != event.version:
            history.append(event.version)
    return histories


def aliases(events: Iterable[Event]) -> dict[str, int]:
    """Where each alias points: at the version of the last event that moved it."""
    return {alias: history[-1] for alias, history in sorted(alias_histories(events).items())}


def last_moves(events: Iterable[Event]) -> dict[str, Event]:
    """The event that pointed each alias where it points now."""
    return {event.alias: event for event in events if event.kind in MOVES and event.alias is not None}


def retired(events: Iterable[Event]) -> set[int]:
    """Versions that were retired: they keep serving where an alias points, but no alias moves to them any more."""
    return {event.version for event in events if event.kind == "retire"}


def rollback_target(alias: str, events: Sequence[Event]) -> int:
    """The version that `alias` pointed to before its present one, retired ones left out.

    Raises:
        RegistryError: there is none.
    """
    history = alias_histories(events).get(alias, [])
    gone = retired(events)
    for version in reversed(history[:-1]):
        if version != history[-1] and version not in gone:
            return version
    raise RegistryError(
        f"{alias} cannot be rolled back: it points to {f'version {history[-1]}' if history else 'no version'} and no "
        f"earlier one is left. Promote the version that should serve."
    )

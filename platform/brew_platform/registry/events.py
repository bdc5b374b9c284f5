"""The events of a model's versions, the outcomes of release gates, and the aliases that result from the events.

All functions are pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from brew_platform.errors import RegistryError, UserError
from brew_platform.registry.gates import GateOutcome

__all__ = [
    "KINDS",
    "SHARED",
    "Event",
    "alias_histories",
    "aliases",
    "approvers",
    "collected",
    "current_policy",
    "in_use",
    "last_moves",
    "retired",
    "rollback_target",
]

SHARED = ("canary", "shadow")  # kinds that give a version a share of the traffic, under the alias of the same name
MOVES = ("promote", "rollback", *SHARED)  # kinds that point an alias at their version; the others only record
# failed: a service could not load the version; collect: its files are removed; policy: who can do what
KINDS = (*MOVES, "blocked", "failed", "approve", "retire", "collect", "policy", "tag")

_OPTIONAL = ("share", "force_reason", "policy")  # fields that are stored only if they have a value
_GATE_FIELDS = frozenset(field.name for field in fields(GateOutcome))


@dataclass(frozen=True, kw_only=True)
class Event:
    """One entry of a model's event log."""

    number: int  # position in the log, from 1
    kind: str  # one of KINDS
    version: int  # the version of the event; if the event moves an alias, the new target; 0 of a policy
    alias: str | None  # the alias that the event moves, or that a blocked promotion would have moved
    author: str
    time: str  # ISO 8601, UTC
    gates: tuple[GateOutcome, ...] = ()
    note: str = ""
    share: float | None = None  # of the traffic, 0 to 1; canary and shadow only
    force_reason: str | None = None  # why a promotion was forced; None: it was not forced
    policy: Mapping[str, Any] | None = None  # the new policy, of an event of kind policy
    write_id: str = ""  # unique per write

    @classmethod
    def from_document(cls, number: int, document: Mapping[str, Any]) -> "Event":
        """Read an event from a stored document. Unknown fields, which a later release may have added, are ignored.

        Args:
            number: The position in the log.
            document: The stored document.

        Raises:
            RegistryError: A field is missing.
        """
        try:
            return cls(
                number=number,
                kind=document["kind"],
                version=document["version"],
                alias=document["alias"],
                author=document["author"],
                time=document["time"],
                gates=tuple(GateOutcome(**_known(gate)) for gate in document["gates"]),
                note=document["note"],
                share=document.get("share"),  # events of earlier releases have none of the three
                force_reason=document.get("force_reason"),
                policy=document.get("policy"),
                write_id=document["write_id"],
            )
        except (KeyError, TypeError, UserError) as error:
            raise RegistryError(
                f"event {number} is damaged: {error}. Restore its object from a backup of the store."
            ) from error

    def document(self) -> dict[str, Any]:
        """The stored form: all fields but the number, which is in the key, and optional fields without a value."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name != "number" and (name not in _OPTIONAL or value is not None)
        }


def _known(gate: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a stored outcome that this release has."""
    return {name: value for name, value in gate.items() if name in _GATE_FIELDS}


def alias_histories(events: Iterable[Event]) -> dict[str, list[int]]:
    """Return the versions of each alias, oldest first. The last one is the current target.

    A promotion appends its version. A rollback removes the versions after its own.
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
    """Return the version of each alias: that of the last event that moved it."""
    return {alias: history[-1] for alias, history in sorted(alias_histories(events).items())}


def last_moves(events: Iterable[Event]) -> dict[str, Event]:
    """Return the last event that moved each alias."""
    return {event.alias: event for event in events if event.kind in MOVES and event.alias is not None}


def retired(events: Iterable[Event]) -> set[int]:
    """Return the retired versions. An alias that points to one keeps doing so, but no alias can move to one."""
    return {event.version for event in events if event.kind == "retire"}


def in_use(events: Iterable[Event]) -> dict[int, list[str]]:
    """Return the versions that aliases point to, with the names of these. An ended canary or shadow does not count."""
    found: dict[int, list[str]] = {}
    for alias, move in sorted(last_moves(events).items()):
        if move.share != 0:
            found.setdefault(move.version, []).append(alias)
    return found


def collected(events: Iterable[Event]) -> dict[int, Event]:
    """Return the versions whose files garbage collection removes, with the event that says so."""
    return {event.version: event for event in events if event.kind == "collect"}


def approvers(number: int, events: Iterable[Event]) -> list[str]:
    """Return the names of all who approved a version, each once, in the order of their approvals."""
    return list(dict.fromkeys(event.author for event in events if event.kind == "approve" and event.version == number))


def current_policy(events: Iterable[Event]) -> Mapping[str, Any] | None:
    """Return the newest policy, as it is stored; None if there is none."""
    policies = [event.policy for event in events if event.kind == "policy"]
    return policies[-1] if policies else None


def rollback_target(alias: str, events: Sequence[Event]) -> int:
    """Return the version that `alias` pointed to before the current one, skipping retired versions.

    Raises:
        RegistryError: There is no such version.
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

"""Decides what to do about the versions that the registry says should serve: a pure state machine.

A new version is started beside the one that serves. Traffic moves to it when it is up, and the old version is removed
a little later, when every gateway has the new routes. A version that fails to start is given up until its alias moves
again, and the previous version keeps serving. Time is an argument, and the module does not import Ray.

A version whose replicas have all died is down until Ray Serve has replaced one. Production answers for a canary that is
down. A canary or shadow that stays down, or goes down repeatedly, is given up; so is production if an earlier version
is still up. Otherwise production stays, because nothing else could answer.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from brew_platform.registry.events import SHARED, Event, alias_histories, last_moves

__all__ = ["ObservedVersion", "Plan", "Role", "Target", "VersionReconciler", "targets"]

Role = Literal["production", "canary", "shadow"]

_MOST_DEATHS = 3  # of all replicas of a version within `_DEATH_SECONDS`; then it is given up
_DEATH_SECONDS = 1_800.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """A version that should serve, and its share of the members."""

    role: Role
    version: int
    share: float = 1.0  # of the members, 0 to 1
    event: int = 0  # number of the registry event that says so; 0 if none does
    up: bool = True  # a replica answers


@dataclass(frozen=True, kw_only=True)
class ObservedVersion:
    """The current state of a version's application in Ray Serve."""

    state: Literal["starting", "up", "down", "failed", "leaving"]  # down: it was up, and no replica answers now
    replicas: int = 0  # that answer
    error: str = ""  # why it failed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do now.

    Args:
        routes: The versions that get requests, production first; empty until a version is up. Versions that are down
            stay in it, so that gateways count the requests that these do not answer.
        start: Versions whose application is to be created.
        remove: Versions whose application is to be deleted; it finishes the requests it has accepted.
        failed: Versions that did not start or stay up, each with the reason; each is reported once.
    """

    routes: tuple[Target, ...]
    start: tuple[int, ...]
    remove: tuple[int, ...]
    failed: tuple[tuple[Target, str], ...]


def targets(events: Sequence[Event], alias: str) -> list[Target]:
    """Return the versions that should serve, production first.

    Args:
        events: The registry's log.
        alias: The production alias, or the number of a version.
    """
    moves = last_moves(events)
    if alias.isdecimal():
        desired = [Target(role="production", version=int(alias))]
    else:
        desired = [
            Target(role="production", version=move.version, event=move.number)
            for name, move in moves.items()
            if name == alias
        ]
    for role in SHARED:
        move = moves.get(role)
        if (
            move
            and move.share
            and move.version not in [target.version for target in desired if target.role == "production"]
        ):
            desired.append(Target(role=role, version=move.version, share=move.share, event=move.number))  # type: ignore[arg-type]
    return desired


class VersionReconciler:
    """Compares the desired with the observed versions, and remembers which versions failed.

    Args:
        alias: As in `targets`.
        roles: The roles to serve; others are ignored.
        start_seconds: Time limit for a version to start, and to be up again.
        retire_seconds: How long a version without routes is kept, so that every gateway learns the new routes.
        clock: Seconds.
    """

    def __init__(
        self,
        alias: str,
        *,
        roles: Collection[Role] = ("production", "canary", "shadow"),
        start_seconds: float,
        retire_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._alias, self._roles = alias, roles
        self._start_seconds, self._retire_seconds, self._clock = start_seconds, retire_seconds, clock
        self._given_up: set[tuple[Role, int, int]] = set()  # role, version, event
        self._waiting: dict[int, float] = {}  # versions that are starting or down, since when
        self._deaths: dict[int, list[float]] = {}  # when all replicas of a version had died
        self._idle: dict[int, float] = {}  # versions without requests, since when
        self._production: Target | None = None

    def reconcile(self, events: Sequence[Event], observed: Mapping[int, ObservedVersion]) -> Plan:
        """Return the plan for now.

        Args:
            events: The registry's log.
            observed: The applications that exist, by version.
        """
        now = self._clock()
        self._record_times(observed, now)
        up = {version for version, state in observed.items() if state.state == "up"}
        down = {version for version, state in observed.items() if state.state == "down"}
        desired = [target for target in targets(events, self._alias) if target.role in self._roles]
        desired = [target for target in desired if self._identity(target) not in self._given_up]
        fallback = self._fallback(desired, up, events)
        failed = [(target, why) for target in desired if (why := self._failure(target, observed, fallback, now))]
        self._given_up |= {self._identity(target) for target, _ in failed}
        desired = [target for target in desired if self._identity(target) not in self._given_up]
        self._choose_production(desired, up, down, fallback)
        routes: list[Target] = []
        if self._production:
            routes = [self._production, *(target for target in desired if target.role != "production")]
            others = (up | down) - {self._production.version}
            routes = [target for target in routes if target is self._production or target.version in others]
        return Plan(
            routes=tuple(replace(target, up=target.version in up) for target in routes),
            start=tuple(dict.fromkeys(target.version for target in desired if target.version not in observed)),
            remove=tuple(self._removable({target.version for target in (*routes, *desired)}, observed, now)),
            failed=tuple(failed),
        )

    def _record_times(self, observed: Mapping[int, ObservedVersion], now: float) -> None:
        waiting = {version for version, state in observed.items() if state.state in ("starting", "down")}
        died = {version for version in waiting - self._waiting.keys() if observed[version].state == "down"}
        self._waiting = {version: self._waiting.get(version, now) for version in waiting}
        self._deaths = {version: times for version, times in self._deaths.items() if version in observed}
        for version in died:
            recent = [time for time in self._deaths.get(version, []) if now - time < _DEATH_SECONDS]
            self._deaths[version] = [*recent, now]

    def _failure(
        self, target: Target, observed: Mapping[int, ObservedVersion], fallback: Target | None, now: float
    ) -> str:
        """Return why the version is given up; empty if it is not."""
        current = observed.get(target.version)
        if current is None or current.state in ("up", "leaving"):
            return ""
        if current.state == "failed":
            return current.error or "it did not start"
        if current.state == "down" and target.role == "production" and fallback is None:
            return ""
        deaths = len(self._deaths.get(target.version, []))
        if current.state == "down" and deaths >= _MOST_DEATHS:
            return f"all of its replicas died {deaths} times within {_DEATH_SECONDS / 60:.0f} minutes"
        seconds = now - self._waiting[target.version]
        if seconds <= self._start_seconds:
            return ""
        again = "again " if current.state == "down" else ""
        return f"it was not up {again}after {seconds:.0f} s (start_seconds is {self._start_seconds:g})"

    def _fallback(self, desired: Sequence[Target], up: set[int], events: Sequence[Event]) -> Target | None:
        """Return the version that serves if the desired production version is not up; None if none can."""
        if self._production and self._production.version in up:
            return self._production
        # This process is new, or the serving version is gone or down: earlier production versions, latest first.
        shared = {target.version for target in desired if target.role != "production"}
        before = [*sorted(up - shared), *alias_histories(events).get(self._alias, [])]
        found = next((version for version in reversed(before) if version in up), None)
        return None if found is None else Target(role="production", version=found)

    def _choose_production(
        self, desired: Sequence[Target], up: set[int], down: set[int], fallback: Target | None
    ) -> None:
        production = next((target for target in desired if target.role == "production"), None)
        if production and production.version in up:
            self._production = production
        elif fallback:
            self._production = fallback
        elif production and production.version in down:
            self._production = production
        elif self._production and self._production.version not in down:
            self._production = None

    def _removable(self, needed: set[int], observed: Mapping[int, ObservedVersion], now: float) -> list[int]:
        """Return the versions to remove; those that never got a request are removed at once."""
        removable = []
        self._idle = {version: since for version, since in self._idle.items() if version in observed.keys() - needed}
        for version in sorted(observed.keys() - needed):
            state = observed[version].state
            since = self._idle.setdefault(version, now)
            if state in ("starting", "down", "failed") or (state == "up" and now - since >= self._retire_seconds):
                removable.append(version)
        return removable

    @staticmethod
    def _identity(target: Target) -> tuple[Role, int, int]:
        return (target.role, target.version, target.event)

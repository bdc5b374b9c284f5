"""Decides what to do about the versions that the registry says should serve: a pure state machine.

A new version is started beside the one that serves. Traffic moves to it when it is up, and the old version is removed
a little later, when every gateway has the new routes. A version that fails to start is given up until its alias moves
again, and the previous version keeps serving. Time is an argument, and the module does not import Ray.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from brew_platform.registry.events import SHARED, Event, alias_histories, last_moves

__all__ = ["ObservedVersion", "Plan", "Role", "Target", "VersionReconciler", "targets"]

Role = Literal["production", "canary", "shadow"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A version that should serve, and its share of the members."""

    role: Role
    version: int
    share: float = 1.0  # of the members, 0 to 1
    event: int = 0  # number of the registry event that says so; 0 if none does


@dataclass(frozen=True, kw_only=True)
class ObservedVersion:
    """The current state of a version's application in Ray Serve."""

    state: Literal["starting", "up", "failed", "leaving"]
    replicas: int = 0  # that answer
    error: str = ""  # why it failed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do now.

    Args:
        routes: The versions that get requests, production first; empty until a version is up.
        start: Versions whose application is to be created.
        remove: Versions whose application is to be deleted; it finishes the requests it has accepted.
        failed: Versions that did not start, each with the reason; each is reported once.
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
        start_seconds: Time limit for a version to start.
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
        self._started: dict[int, float] = {}
        self._idle: dict[int, float] = {}  # versions without requests, since when
        self._production: Target | None = None

    def reconcile(self, events: Sequence[Event], observed: Mapping[int, ObservedVersion]) -> Plan:
        """Return the plan for now.

        Args:
            events: The registry's log.
            observed: The applications that exist, by version.
        """
        now = self._clock()
        desired = [target for target in targets(events, self._alias) if target.role in self._roles]
        desired = [target for target in desired if self._identity(target) not in self._given_up]
        failed = [(target, why) for target in desired if (why := self._failure(target.version, observed, now))]
        self._given_up |= {self._identity(target) for target, _ in failed}
        desired = [target for target in desired if self._identity(target) not in self._given_up]
        up = {version for version, state in observed.items() if state.state == "up"}
        self._choose_production(desired, up, events)
        routes = []
        if self._production:
            others = up - {self._production.version}
            shared = [target for target in desired if target.role != "production" and target.version in others]
            routes = [self._production, *shared]
        return Plan(
            routes=tuple(routes),
            start=tuple(dict.fromkeys(target.version for target in desired if target.version not in observed)),
            remove=tuple(self._removable({target.version for target in (*routes, *desired)}, observed, now)),
            failed=tuple(failed),
        )

    def _failure(self, version: int, observed: Mapping[int, ObservedVersion], now: float) -> str:
        """Return why the version is given up; empty if it is not."""
        current = observed.get(version)
        if current is None or current.state != "starting":
            self._started.pop(version, None)
            return current.error or "it did not start" if current and current.state == "failed" else ""
        seconds = now - self._started.setdefault(version, now)
        if seconds <= self._start_seconds:
            return ""
        return f"it was not up after {seconds:.0f} s (start_seconds is {self._start_seconds:g})"

    def _choose_production(self, desired: Sequence[Target], up: set[int], events: Sequence[Event]) -> None:
        for target in desired:
            if target.role == "production" and target.version in up:
                self._production = target
                return
        if self._production and self._production.version in up:
            return
        # This process is new, or the serving version is gone: fall back to earlier production versions, latest first.
        shared = {target.version for target in desired if target.role != "production"}
        before = [*sorted(up - shared), *alias_histories(events).get(self._alias, [])]
        self._production = next(
            (Target(role="production", version=version) for version in reversed(before) if version in up), None
        )

    def _removable(self, needed: set[int], observed: Mapping[int, ObservedVersion], now: float) -> list[int]:
        """Return the versions to remove; those that never got a request are removed at once."""
        removable = []
        self._idle = {version: since for version, since in self._idle.items() if version in observed.keys() - needed}
        for version in sorted(observed.keys() - needed):
            state = observed[version].state
            since = self._idle.setdefault(version, now)
            if state in ("starting", "failed") or (state == "up" and now - since >= self._retire_seconds):
                removable.append(version)
        return removable

    @staticmethod
    def _identity(target: Target) -> tuple[Role, int, int]:
        return (target.role, target.version, target.event)

"""What to do about the versions that the registry wants served: a pure state machine that returns decisions.

A new version is started beside the one that serves. Traffic moves to it when it is up, and the old one is taken away a
little later, when every gateway knows. A version that does not come up is given up until its alias is moved again, and
whatever served before goes on.

Owns: these decisions. Does not own: carrying them out (`fleet`). Time comes in as a clock. Runs without Ray.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from brew_platform.registry.events import SHARED, Event, alias_histories, last_moves

__all__ = ["Follower", "Plan", "Role", "Seen", "Target", "targets"]

Role = Literal["production", "canary", "shadow"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A version that should serve, and whom."""

    role: Role
    version: int
    share: float = 1.0  # of the members, 0 to 1
    event: int = 0  # of the registry's log, that says so; 0 where none does


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A version's application in Ray Serve, as it is now."""

    state: Literal["starting", "up", "failed", "leaving"]
    replicas: int = 0  # that answer
    told: str = ""  # why it failed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do now.

    Args:
        routes: who gets requests, production first; empty as long as nothing is up.
        start: versions whose application is to be made.
        remove: versions whose application is to be deleted; it finishes what it has accepted.
        failed: who did not come up, and why; each is told once.
    """

    routes: tuple[Target, ...]
    start: tuple[int, ...]
    remove: tuple[int, ...]
    failed: tuple[tuple[Target, str], ...]


def targets(events: Sequence[Event], alias: str) -> list[Target]:
    """Who should serve, production first.

    Args:
        events: the registry's log.
        alias: that is production's, or the number of a version.
    """
    moves = last_moves(events)
    if alias.isdecimal():
        wanted = [Target(role="production", version=int(alias))]
    else:
        wanted = [
            Target(role="production", version=move.version, event=move.number)
            for name, move in moves.items()
            if name == alias
        ]
    for role in SHARED:
        move = moves.get(role)
        if move and move.share and move.version not in [one.version for one in wanted if one.role == "production"]:
            # The type checker does not know that SHARED names two of the roles.
            wanted.append(Target(role=role, version=move.version, share=move.share, event=move.number))  # type: ignore[arg-type]
    return wanted


class Follower:
    """Remembers what was tried.

    Args:
        alias: as `targets`.
        roles: those that count; the registry's others are for somebody else.
        start_seconds: in which a version must come up.
        retire_seconds: that a version without requests is kept, until every gateway knows that it gets none.
        clock: seconds.
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

    def step(self, events: Sequence[Event], seen: Mapping[int, Seen]) -> Plan:
        """Decides.

        Args:
            events: the registry's log.
            seen: the applications that there are, by version.
        """
        now = self._clock()
        wanted = [one for one in targets(events, self._alias) if one.role in self._roles]
        wanted = [one for one in wanted if self._name(one) not in self._given_up]
        failed = [(one, why) for one in wanted if (why := self._failure(one.version, seen, now))]
        self._given_up |= {self._name(one) for one, _ in failed}
        wanted = [one for one in wanted if self._name(one) not in self._given_up]
        up = {version for version, one in seen.items() if one.state == "up"}
        self._choose_production(wanted, up, events)
        routes = []
        if self._production:
            others = up - {self._production.version}
            shared = [one for one in wanted if one.role != "production" and one.version in others]
            routes = [self._production, *shared]
        return Plan(
            routes=tuple(routes),
            start=tuple(dict.fromkeys(one.version for one in wanted if one.version not in seen)),
            remove=tuple(self._useless({one.version for one in (*routes, *wanted)}, seen, now)),
            failed=tuple(failed),
        )

    def _failure(self, version: int, seen: Mapping[int, Seen], now: float) -> str:
        """Why the version is to be given up; empty where it is not."""
        one = seen.get(version)
        if one is None or one.state != "starting":
            self._started.pop(version, None)
            return one.told or "it did not start" if one and one.state == "failed" else ""
        seconds = now - self._started.setdefault(version, now)
        if seconds <= self._start_seconds:
            return ""
        return f"it was not up after {seconds:.0f} s (start_seconds is {self._start_seconds:g})"

    def _choose_production(self, wanted: Sequence[Target], up: set[int], events: Sequence[Event]) -> None:
        for one in wanted:
            if one.role == "production" and one.version in up:
                self._production = one
                return
        if self._production and self._production.version in up:
            return
        # This process is new, or what served is gone: whatever production was before, the latest first.
        shared = {one.version for one in wanted if one.role != "production"}
        before = [*sorted(up - shared), *alias_histories(events).get(self._alias, [])]
        self._production = next(
            (Target(role="production", version=version) for version in reversed(before) if version in up), None
        )

    def _useless(self, needed: set[int], seen: Mapping[int, Seen], now: float) -> list[int]:
        """Versions to take away: at once where they never got a request."""
        useless = []
        self._idle = {version: since for version, since in self._idle.items() if version in seen.keys() - needed}
        for version in sorted(seen.keys() - needed):
            one = seen[version]
            since = self._idle.setdefault(version, now)
            if one.state in ("starting", "failed") or (one.state == "up" and now - since >= self._retire_seconds):
                useless.append(version)
        return useless

    @staticmethod
    def _name(target: Target) -> tuple[Role, int, int]:
        return (target.role, target.version, target.event)

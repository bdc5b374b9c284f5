"""The versioned model registry on an object store. It needs no server and no database.

    models/<name>/blobs/sha256/<digest>        content of each file, uploaded first
    models/<name>/versions/<20 digits>.json    manifest, created last; a version exists if its manifest exists
    models/<name>/events/<20 digits>.json      create-only log of events; aliases are computed from it
    models/<name>/snapshots/<20 digits>.json   copies of the first events, so that a reader need not read each
    models/<name>/holds/, collections/         what is in use, and running garbage collections (`holds`)

Data sets have the same keys below `datasets`. All objects are immutable. Only garbage collection deletes blobs
(`garbage`); manifests and events stay.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from brew_platform.errors import RegistryError, UserError
from brew_platform.registry.blobs import File
from brew_platform.registry.decisions import (
    Decision,
    decide_policy,
    decide_promotion,
    decide_retirement,
    decide_rollback,
    decide_sharing,
)
from brew_platform.registry.event_log import Fault
from brew_platform.registry.events import KINDS, SHARED, Event, aliases, in_use, retired, rollback_target
from brew_platform.registry.gates import Gate, GateOutcome
from brew_platform.registry.policy import Policy, policy_of
from brew_platform.registry.published_versions import PublishedVersions
from brew_platform.registry.version import Version
from brew_platform.settings import PlainName

__all__ = ["Event", "Fault", "File", "Gate", "GateOutcome", "Registry", "Version"]

_NUMBER = re.compile(r"[1-9][0-9]{0,18}")  # 007 is not version 7
_SHARES = {"canary": 0.05, "shadow": 0.1}  # default share of the traffic
_OWN_METHODS = ("promote", "rollback", "blocked", "collect", "policy")  # kinds that `append` does not write


class Registry(PublishedVersions):
    """The versions of one model, or of one data set, and the aliases that point to them.

    The inherited methods publish and fetch versions; those here move aliases and record other events. The arguments are
    those of `PublishedVersions`.
    """

    def aliases(self) -> dict[str, int]:
        """Return the version number of each alias."""
        return aliases(self.events())

    def policy(self) -> Policy:
        """Return who can move which alias; without a policy, everyone can."""
        return policy_of(self.events())

    def resolve(self, alias_or_number: str | int) -> int:
        """Return the version number of an alias (`production`), or check a number (`7`, `"7"`).

        Raises:
            RegistryError: The alias or the version does not exist.
        """
        if isinstance(alias_or_number, int) or _NUMBER.fullmatch(alias_or_number):
            self._require(int(alias_or_number))
            return int(alias_or_number)
        known = self.aliases()
        if alias_or_number not in known:
            names = ", ".join(known) or "none yet"
            remedy = "Give an alias that exists, or the number of a version."
            if PlainName().accepts(alias_or_number):
                remedy = "Promote a version to it first."
            raise RegistryError(f"{self.model} has no alias {alias_or_number!r}; existing are: {names}. {remedy}")
        return known[alias_or_number]

    def append(
        self,
        kind: str,
        number: int,
        *,
        author: str,
        alias: str | None = None,
        note: str = "",
        share: float | None = None,
    ) -> Event:
        """Record an event that does not depend on a gate.

        A canary moves the alias `canary`, a shadow the alias `shadow`. A share of 0 ends the canary or shadow.

        Args:
            kind: canary, shadow, failed, approve, retire or tag. Promotions and rollbacks have their own methods.
            number: The number of the version.
            author: The name of the author.
            alias: The alias of the event; None for the default of `kind`.
            note: A comment.
            share: The share of the traffic, from 0 to 1, of a canary (default .05) or a shadow (default .1).

        Returns:
            The recorded event.

        Raises:
            UserError: `kind`, `alias` or `share` is invalid.
            RegistryError: The version does not exist, it is retired already, or the policy or a missing file forbids
                the canary or shadow. The log keeps the refusal.
        """
        if kind not in KINDS or kind in _OWN_METHODS:
            raise UserError(
                f"{kind!r} cannot be appended. Use canary, shadow, failed, approve, retire or tag, or call promote() "
                f"or rollback()."
            )
        self._require(number)
        version = self.version(number) if kind in SHARED else None
        if kind in SHARED:
            alias = alias or kind
            share = _SHARES[kind] if share is None else share
            if not 0 <= share <= 1:
                raise UserError(
                    f"the share of a {kind} is {share}. Set a number from 0 (no traffic) to 1 (all traffic)."
                )
        elif share is not None:
            raise UserError(
                f"an event of kind {kind} has no share of the traffic. Leave it out, or use canary or shadow."
            )

        def decide(events: list[Event]) -> Decision:
            if kind == "retire":
                return decide_retirement(number, events, model=self.model)
            if version is None or share is None:
                return Decision(kind=kind, version=number)
            return decide_sharing(
                kind,
                version,
                events,
                model=self.model,
                alias=alias or kind,
                author=author,
                share=share,
                missing=self._missing(version),
            )

        return self.log.append(decide, alias=alias, author=author, note=note, share=share)

    def promote(
        self,
        number: int,
        *,
        alias: str = "production",
        gates: Sequence[Gate] | None = None,
        author: str,
        note: str = "",
        force: bool = False,
        reason: str = "",
        replaces: int | None = None,
    ) -> Event:
        """Point `alias` at a version if its recorded figures pass every gate. The outcome is recorded either way.

        All conditions are judged in the append, on the events before it, so that of two promotions at the same time the
        second is judged against the version of the first.

        Args:
            number: The version.
            alias: The alias to move.
            gates: Judged on the version's metrics; None: the gates that the version was published with.
            author: Who promotes.
            note: Kept in the event.
            force: Promote without gates, or although a gate fails. The policy's roles and approvals still apply.
            reason: Why the promotion is forced; kept in the event.
            replaces: The version that the alias must point to; None: any, or none.

        Raises:
            UserError: There are no gates and the promotion is not forced, or `force` and `reason` are not given
                together.
            RegistryError: A gate or the policy failed, the version is retired, one of its files is missing, or the
                alias points to another version than `replaces`, each recorded as an event of kind "blocked"; or there
                is no such version.
        """
        decide = self._decide_promotion(number, alias, gates, author, force=force, reason=reason, replaces=replaces)
        return self.log.append(decide, alias=alias, author=author, note=note, force_reason=reason.strip() or None)

    def check(
        self,
        number: int,
        *,
        alias: str = "production",
        gates: Sequence[Gate] | None = None,
        author: str,
        note: str = "",
    ) -> Event:
        """Judge a promotion as `promote` does, but do not move the alias. The outcome is recorded either way.

        Args:
            number: The version.
            alias: The alias that it would be promoted to.
            gates: As in `promote`.
            author: Who checks; the roles of the policy are judged for this person.
            note: Kept in the event.

        Returns:
            An event of kind "tag" with the outcomes.

        Raises:
            UserError, RegistryError: As `promote`.
        """
        judge = self._decide_promotion(number, alias, gates, author)

        def decide(events: list[Event]) -> Decision:
            decision = judge(events)
            return decision if decision.refusal else replace(decision, kind="tag")

        return self.log.append(decide, alias=alias, author=author, note=note or "checked")

    def rollback(self, alias: str = "production", *, author: str, note: str = "") -> Event:
        """Point `alias` back at the version it pointed to before, retired ones left out.

        Raises:
            RegistryError: There is no earlier version; or, recorded as an event of kind "blocked", a file of it is
                missing, or the policy does not allow it.
        """

        def decide(events: list[Event]) -> Decision:
            version = self.version(rollback_target(alias, events))
            missing = self._missing(version)
            return decide_rollback(version, events, model=self.model, alias=alias, author=author, missing=missing)

        return self.log.append(decide, alias=alias, author=author, note=note)

    def set_policy(self, policy: Policy, *, author: str, note: str = "") -> Event:
        """Replace the policy of this model.

        Raises:
            RegistryError: The present policy does not let `author` change it. The log keeps the refusal.
        """

        def decide(events: list[Event]) -> Decision:
            return decide_policy(events, model=self.model, author=author)

        return self.log.append(decide, alias=None, author=author, note=note, policy=policy.document())

    def record_collected(self, number: int, *, author: str, note: str = "") -> Event:
        """Record that garbage collection removes the files of a retired version. No alias can point to it later.

        Raises:
            RegistryError: The version is not retired, or an alias points to it. Nothing is recorded.
        """

        def decide(events: list[Event]) -> Decision:
            if number not in retired(events) or number in in_use(events):
                raise RegistryError(f"version {number} of {self.model} is in use, so that its files are kept.")
            return Decision(kind="collect", version=number)

        return self.log.append(decide, alias=None, author=author, note=note)

    def _decide_promotion(
        self,
        number: int,
        alias: str,
        gates: Sequence[Gate] | None,
        author: str,
        *,
        force: bool = False,
        reason: str = "",
        replaces: int | None = None,
    ) -> Callable[[list[Event]], Decision]:
        """Check the arguments of a promotion, and return the function that decides about it."""
        version = self.version(number)
        gates = version.gates if gates is None else gates
        if not all(isinstance(gate, Gate) for gate in gates):
            raise UserError("a promotion takes gates, of type Gate: the registry judges them itself.")
        if force != bool(reason.strip()):
            raise UserError(
                f"version {number} of {self.model} was not promoted: "
                + ("a forced promotion needs a reason, which the log keeps." if force else "a reason needs force.")
                + " Give both, or neither."
            )
        if not gates and not force:
            raise UserError(
                f"version {number} of {self.model} was not promoted: it has no gates, so that nothing was judged. Name "
                f"gates in the recipe (release.gates), or force the promotion with a reason."
            )

        def decide(events: list[Event]) -> Decision:
            current = aliases(events).get(alias)
            return decide_promotion(
                version,
                events,
                model=self.model,
                alias=alias,
                author=author,
                gates=gates,
                current=None if current is None else self.version(current),
                replaces=replaces,
                force=force,
                missing=self._missing(version),
            )

        return decide

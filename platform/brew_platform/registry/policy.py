"""Who can move which alias, and whose approvals a version needs first. Pure functions.

The policy of a model is a part of its event log, so that the append of a promotion judges it together with all earlier
events. Names are those that the commands write into the log; the store's credentials decide who can write at all.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from brew_platform.errors import ConfigError
from brew_platform.registry.events import Event, approvers, current_policy
from brew_platform.registry.gates import GateOutcome
from brew_platform.settings import PositiveInt, Settings, require_name

__all__ = ["AliasRule", "Policy", "judge_move", "policy_of"]


@dataclass(frozen=True, kw_only=True)
class AliasRule(Settings):
    """The conditions of moving one alias."""

    move: list[str] = field(default_factory=list)  # roles that can promote to it and roll it back; empty: everyone
    # By role, how many people with this role must approve a version before it is promoted to the alias. The
    # publisher of the version does not count. A forced promotion needs the approvals too; a rollback does not.
    approvals: dict[str, PositiveInt] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Policy(Settings):
    """The roles of people, and the conditions of moving aliases.

    Raises:
        ConfigError: A rule names a role that does not exist, or needs more approvals than the role has people.
    """

    roles: dict[str, list[str]] = field(default_factory=dict)  # by role, the names of its people
    aliases: dict[str, AliasRule] = field(default_factory=dict)  # by alias; others can be moved by everyone
    change: list[str] = field(default_factory=list)  # roles that can replace this policy; empty: everyone

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.aliases:
            require_name("alias", name)
        uses = {"change": self.change}
        for name, rule in self.aliases.items():
            uses |= {f"aliases.{name}.move": rule.move, f"aliases.{name}.approvals": list(rule.approvals)}
        for key, roles in uses.items():
            for role in roles:
                if not self.roles.get(role):
                    known = ", ".join(self.roles) or "none"
                    raise ConfigError(f"{key} names the role {role!r}, which nobody has. Roles are: {known}.")
        for name, rule in self.aliases.items():
            for role, number in rule.approvals.items():
                people = len(set(self.roles[role]))
                if number > people:
                    raise ConfigError(
                        f"aliases.{name}.approvals.{role} is {number}, but only {people} people have that role, so "
                        f"that nothing could be promoted. Lower it, or add people."
                    )

    def roles_of(self, person: str) -> list[str]:
        """Return the roles of a person."""
        return [role for role, people in self.roles.items() if person in people]

    def document(self) -> dict[str, Any]:
        """Return the policy as JSON."""
        return asdict(self)


def policy_of(events: Sequence[Event]) -> Policy:
    """Return the policy that an event log has now; without one, everyone can do everything.

    Raises:
        ConfigError: The stored policy has settings that this release does not know.
    """
    document = current_policy(events)
    if document is None:
        return Policy()
    from brew_platform.config import load_config  # imports omegaconf, which a log without a policy does not need

    return load_config(Policy, document, key="policy")


def judge_move(
    policy: Policy, alias: str, *, author: str, events: Sequence[Event], version: int | None, publisher: str | None
) -> tuple[GateOutcome, ...]:
    """Judge whether a policy allows to move an alias.

    Args:
        policy: The policy.
        alias: The alias.
        author: Who moves it.
        events: All events before.
        version: The version to promote; None: the alias is rolled back, which needs no approval.
        publisher: Who published the version.

    Returns:
        An outcome named `role` if the alias is restricted to roles, and one named `approvals.<role>` per role whose
        approvals are needed.
    """
    rule = policy.aliases.get(alias, AliasRule())
    outcomes = []
    if rule.move:
        has_role = bool({*policy.roles_of(author)} & {*rule.move})
        reason = "" if has_role else f"{author} is not {' or '.join(rule.move)}"
        outcomes.append(GateOutcome("role", 1.0 if has_role else None, 1.0, has_role, reason=reason))
    if version is None:
        return tuple(outcomes)
    for role, number in rule.approvals.items():
        people = {*policy.roles[role]} - {publisher}
        count = len(people.intersection(approvers(version, events)))
        outcomes.append(GateOutcome(f"approvals.{role}", float(count), float(number), count >= number))
    return tuple(outcomes)

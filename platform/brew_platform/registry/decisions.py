"""What the events before it decide about a new event: whether it is recorded as requested, or as refused.

All functions are pure. The registry calls them inside the append, again if another process wrote an event meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from brew_platform.registry.events import Event, retired
from brew_platform.registry.gates import Gate, GateOutcome, Measured, judge
from brew_platform.registry.policy import judge_move, policy_of
from brew_platform.registry.version import Version

__all__ = [
    "Decision",
    "decide_policy",
    "decide_promotion",
    "decide_retirement",
    "decide_rollback",
    "decide_sharing",
]

_BY_POLICY = "Get the missing approvals with `brew360 registry approve`, or let a person do it who has the role."


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The event to record. With a refusal, it is recorded with the kind `blocked`."""

    kind: str
    version: int
    gates: tuple[GateOutcome, ...] = ()
    refusal: str = ""  # a sentence
    remedy: str = ""
    by_gates: bool = False  # whether the gates say why it is refused, so that the event needs no note


def decide_promotion(
    version: Version,
    events: Sequence[Event],
    *,
    model: str,
    alias: str,
    author: str,
    gates: Sequence[Gate],
    current: Version | None,
    replaces: int | None,
    force: bool,
    missing: str | None,
) -> Decision:
    """Decide about a promotion.

    Args:
        version: The version to promote.
        events: All events before.
        model: Name of the model, for messages.
        alias: The alias to move.
        author: Who promotes.
        gates: Judged on the figures of the version.
        current: The version that the alias points to.
        replaces: The version that it must point to; None: any, or none.
        force: Promote although a gate fails.
        missing: What is wrong with a file of the version.
    """
    by_policy = _judge_policy(version, events, alias=alias, author=author)
    replaced = None if current is None else _measured(current)
    outcomes = judge(gates, _measured(version), replaced)
    refusal, remedy = _unusable(version, events, model, missing)
    by_gates = False
    if not refusal and replaces is not None and (current is None or current.number != replaces):
        points = "no version" if current is None else f"version {current.number}"
        refusal = f"version {version.number} of {model} was not promoted: {alias} points to {points}, not to version "
        refusal, remedy = f"{refusal}{replaces}.", "Compare the two versions first."
    if not refusal and (failed := _failed([*by_policy, *(() if force else outcomes)])):
        refusal, by_gates = f"version {version.number} of {model} was not promoted to {alias}: {failed}.", True
        remedy = _BY_POLICY if _failed(by_policy) else "Publish a version that passes, or correct the gate."
    return Decision(
        kind="promote",
        version=version.number,
        gates=(*by_policy, *outcomes),
        refusal=refusal,
        remedy=remedy,
        by_gates=by_gates,
    )


def decide_rollback(
    version: Version, events: Sequence[Event], *, model: str, alias: str, author: str, missing: str | None
) -> Decision:
    """Decide about pointing an alias back at `version`, which needs the role of the policy but no approvals."""
    outcomes = judge_move(policy_of(events), alias, author=author, events=events, version=None, publisher=None)
    return _moved(
        "rollback", version, outcomes, _unusable(version, events, model, missing), f"{alias} was not rolled back"
    )


def decide_sharing(
    kind: str,
    version: Version,
    events: Sequence[Event],
    *,
    model: str,
    alias: str,
    author: str,
    share: float,
    missing: str | None,
) -> Decision:
    """Decide about a canary or shadow. A share of 0 ends it, which needs the role of the policy only."""
    outcomes = _judge_policy(version if share else None, events, alias=alias, author=author)
    unusable = _unusable(version, events, model, missing) if share else ("", "")
    return _moved(kind, version, outcomes, unusable, f"version {version.number} of {model} was not made {alias}")


def decide_retirement(number: int, events: Sequence[Event], *, model: str) -> Decision:
    """Decide about a retirement, which happens once."""
    refusal = f"version {number} of {model} is retired already." if number in retired(events) else ""
    return Decision(kind="retire", version=number, refusal=refusal)


def decide_policy(events: Sequence[Event], *, model: str, author: str) -> Decision:
    """Decide about the replacement of the policy, by the present policy."""
    present = policy_of(events)
    if not present.change or {*present.change} & {*present.roles_of(author)}:
        return Decision(kind="policy", version=0)
    roles = " or ".join(present.change)
    refusal = f"the policy of {model} was not changed: {author} is not {roles}."
    return Decision(kind="policy", version=0, refusal=refusal, remedy="Let a person do it who has the role.")


def _moved(
    kind: str, version: Version, outcomes: tuple[GateOutcome, ...], unusable: tuple[str, str], refused: str
) -> Decision:
    """Return the decision about a move that only the policy and the state of the version can refuse."""
    refusal, remedy = unusable
    failed = _failed(outcomes)
    if not refusal and failed:
        refusal, remedy = f"{refused}: {failed}.", _BY_POLICY
    return Decision(
        kind=kind,
        version=version.number,
        gates=outcomes,
        refusal=refusal,
        remedy=remedy,
        by_gates=bool(failed) and not unusable[0],
    )


def _judge_policy(
    version: Version | None, events: Sequence[Event], *, alias: str, author: str
) -> tuple[GateOutcome, ...]:
    return judge_move(
        policy_of(events),
        alias,
        author=author,
        events=events,
        version=None if version is None else version.number,
        publisher=None if version is None else version.author,
    )


def _unusable(version: Version, events: Sequence[Event], model: str, missing: str | None) -> tuple[str, str]:
    """Return why no alias can point to a version, and what to do; two empty strings if one can."""
    if version.number in retired(events):
        return f"version {version.number} of {model} is retired. Promote another, or publish it again.", ""
    if missing:
        return (
            f"version {version.number} of {model} cannot serve: {missing}.",
            "Publish the same files again, or use another version.",
        )
    return "", ""


def _measured(version: Version) -> Measured:
    return Measured(number=version.number, metrics=version.metrics, lineage=version.lineage)


def _failed(outcomes: Sequence[GateOutcome]) -> str:
    return "; ".join(str(outcome) for outcome in outcomes if not outcome.passed)

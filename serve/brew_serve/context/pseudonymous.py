"""The member context of a data set with pseudonyms, for requests that name members by their ids."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from brew_data.privacy.pseudonyms import Pseudonyms
from brew_data.prompts.compiler import Entity, PastInteraction
from brew_platform.errors import UserError
from brew_serve.context.base import Context, MemberEvent, Snapshot, UnknownId, unknown_member

__all__ = ["PseudonymousContext", "require_same_key"]


class PseudonymousContext:
    """A `Context` whose store knows members by pseudonym; its methods take the ids of members.

    Args:
        context: The store; closed by `close`.
        pseudonyms: With the key that the data set of the store was built with.
    """

    def __init__(self, context: Context, pseudonyms: Pseudonyms) -> None:
        self._context, self._pseudonyms = context, pseudonyms

    def member(self, member_id: str) -> tuple[dict[str, object], list[PastInteraction]]:
        with _named(member_id):
            return self._context.member(self._pseudonyms.of(member_id))

    def snapshot(self, member_id: str) -> Snapshot:
        with _named(member_id):
            return self._context.snapshot(self._pseudonyms.of(member_id))

    def entity(self, entity_id: str) -> Entity:
        return self._context.entity(entity_id)

    def entities(self, entity_ids: Sequence[str]) -> dict[str, Entity]:
        return self._context.entities(entity_ids)

    def record(self, events: Sequence[MemberEvent]) -> int:
        return self._context.record(
            [replace(event, member_id=self._pseudonyms.of(event.member_id)) for event in events]
        )

    def check(self) -> None:
        self._context.check()

    def close(self) -> None:
        self._context.close()


def require_same_key(stored: str | None, pseudonyms: Pseudonyms | None, location: str) -> None:
    """Check that a store of members and the settings have the same key of pseudonyms, or neither has any.

    Args:
        stored: The id of the key that the data set of the store was built with; None: the store has ids of members.
        pseudonyms: With the key of the settings.
        location: Of the store, for the message.

    Raises:
        UserError: They do not.
    """
    used = None if pseudonyms is None else pseudonyms.key_id
    if stored == used:
        return
    if stored is None:
        fault, remedy = "by their ids, but pseudonyms is set", "Remove the setting, or build it from such a data set"
    elif used is None:
        fault, remedy = "by pseudonym, but no key is set", "Set pseudonyms.env or pseudonyms.file to the key"
    else:
        fault = f"by pseudonym with the key {stored}, but the key that is set is {used}"
        remedy = "Set the key of its data set"
    raise UserError(f"{location} contains members {fault}, so that no request would find its member. {remedy}.")


@contextmanager
def _named(member_id: str) -> Iterator[None]:
    """Name the member by the id of the request in errors."""
    try:
        yield
    except UnknownId:
        raise unknown_member(member_id) from None

"""The records that prompts show: entities, and a member's past interactions with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from brew_data.prompts.fields import field_values

__all__ = ["Entity", "PastInteraction"]


@dataclass(frozen=True, kw_only=True)
class Entity:
    """An item that can be shown to a member.

    Args:
        entity_type: Selects the suite's template that renders the entity.
        fields: Values by name, as in the entities table or in a request.
    """

    entity_type: str
    fields: Mapping[str, object]

    @staticmethod
    def of_values(entity_type: str, values: Mapping[str, str]) -> "Entity":
        """Return an entity with fields that `field_values` returned; they are not converted again."""
        entity = Entity(entity_type=entity_type, fields=values)
        entity.__dict__["values"] = values
        return entity

    @cached_property
    def values(self) -> dict[str, str]:
        """The text of each field that is present.

        Raises:
            UserError: As in `field_values`.
        """
        return field_values(self.fields)


@dataclass(frozen=True, kw_only=True)
class PastInteraction:
    """A past interaction of a member.

    Args:
        entity: The entity that the member saw.
        surface: The name of the surface that showed it.
        action: The name of the action that the member took.
        timestamp: Microseconds since 1970, UTC.
    """

    entity: Entity
    surface: str
    action: str
    timestamp: int

"""Questions: the text of a turn before and after its entity."""

import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from brew_data.prompts.phrases import Phrase
from brew_platform.errors import ConfigError

__all__ = ["ENTITY", "Question", "compile_questions", "render_first"]

ENTITY = "entity"  # the name of the entity's text in a question


class Question:
    """The compiled question of a turn.

    Args:
        source: A phrase with fields of the profile. It can place the entity with `{{ entity }}`; otherwise the entity
            follows on the next line.
        fields: The fields of the profile.
        place: Names the phrase in error messages.
        quantiles: As in `Phrase`.

    Raises:
        ConfigError: As `Phrase`; or the entity occurs more than once, inside a condition, or with a filter.
    """

    def __init__(
        self,
        source: str,
        fields: Collection[str],
        place: str,
        quantiles: Mapping[str, Sequence[float]] = MappingProxyType({}),
    ) -> None:
        parts = re.split(r"\{\{\s*entity\s*\}\}", source)
        whole = Phrase(source, [*fields, ENTITY], place)
        whole.check_text()
        self.places_entity = len(parts) > 1
        if len(parts) > 2 or (ENTITY in whole.fields and not self.places_entity):
            raise ConfigError(f"{whole.place} must show {{{{ entity }}}} once, and without a filter.")
        try:
            before, after = parts if self.places_entity else (f"{source}\n", "")
            self._before = Phrase(before, fields, place, quantiles)
            self._after = Phrase(after, fields, place, quantiles)
        except ConfigError as error:
            raise ConfigError(f"{whole.place} must show {{{{ entity }}}} outside of conditions.") from error
        self.percentiles = whole.percentiles

    def render(self, profile: Mapping[str, str]) -> tuple[str, str] | None:
        """Return the text before and after the entity, or None if a field that the question shows is absent."""
        before, after = self._before.render(profile), self._after.render(profile)
        return None if before is None or after is None else (before, after)


def compile_questions(
    question: Sequence[str],
    alternatives: Sequence[Sequence[str]],
    fields: Collection[str],
    place: str,
    quantiles: Mapping[str, Sequence[float]],
) -> list[list[Question]]:
    """Compile the question of a turn in all forms, the first first.

    Args:
        question: Templates; a turn uses the first one whose fields are present.
        alternatives: Other forms. Each ends with `question`, for absent fields.
        fields: As in `Question`.
        place: Names the surface or task in error messages.
        quantiles: As in `Phrase`.

    Raises:
        ConfigError: As `Question`.
    """

    def compiled(templates: Sequence[str], name: str) -> list[Question]:
        return [
            Question(template, fields, f"{place}, {name} {number}", quantiles)
            for number, template in enumerate(templates, start=1)
        ]

    first = compiled(question, "question")
    others = enumerate(alternatives, start=1)
    return [first, *([*compiled(other, f"question alternative {n}, template"), *first] for n, other in others)]


def render_first(questions: Sequence[Question], profile: Mapping[str, str], *, has_entity: bool) -> tuple[str, str]:
    """Render the first question whose fields are present.

    Args:
        questions: A form of `compile_questions`.
        profile: The member's fields, from `field_values`.
        has_entity: False: the entity has no text, so questions that place it are passed over.

    Returns:
        The text before and after the entity; empty if no question can be rendered.
    """
    for question in questions:
        if (has_entity or not question.places_entity) and (frame := question.render(profile)) is not None:
            return frame
    return "", ""

"""Templates of records: how a profile or an entity is rendered as text.

A template is a list of phrases (`brew_data.prompts.phrases`). A record can have alternative phrases, which must show
the same fields.
"""

import copy
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import combinations
from typing import Annotated

from brew_data.prompts.percentiles import LEVELS
from brew_data.prompts.phrases import Phrase, check_literal
from brew_data.prompts.questions import ENTITY
from brew_data.prompts.suite_format import ADDED
from brew_data.prompts.variation import FIRST, Variation
from brew_platform.errors import ConfigError
from brew_platform.settings import OneOf, PositiveInt, Range, Settings

__all__ = ["RecordForm", "RecordTemplate"]

ORDERS = 8  # of the phrases of a record, the written one included


@dataclass(frozen=True, kw_only=True)
class RecordForm(Settings):
    """The phrases of a record, and the text around them.

    The text is `start`, the phrases joined with `separator`, and `end`. It is empty if no phrase is left.

    Args:
        phrases: Jinja2 templates, such as "in {{ location }}". `{{ skills | lines }}` makes one line per element of
            "a, b, c", and `{{ followers | percentile }}` shows a number as "top 10%". A phrase is left out if a field
            that it shows is absent.
        start: Text before the first phrase.
        separator: Text between phrases.
        end: Text after the last phrase. It is never cut.
        any_order: Training can show the phrases in another order; serving shows them as they are written.
    """

    phrases: list[str]
    start: str = ""
    separator: str = "\n"
    end: str = "\n"
    any_order: bool = field(default=False, metadata=ADDED)


@dataclass(frozen=True, kw_only=True)
class RecordTemplate(RecordForm):
    """How a record (a profile or an entity) is rendered as text.

    Args:
        fields: The fields that the phrases may show. The first one, usually the title, is shortened last.
        phrases: As in `RecordForm`, as `start`, `separator`, `end` and `any_order`. Serving uses this form.
        max_tokens: The maximum number of tokens of a field, by its name. Longer values end at a word.
        cut: What is shortened if the record exceeds its budget. `fields`: whole fields, those of `cut_first` in their
            order, then the longest; all other text stays. `end`: the text is cut at its end.
        cut_first: Fields to shorten first.
        alternatives: Other forms of the same record, of which training uses one per document. Each shows the same
            fields as `phrases`, whichever of them are absent; only the first of `fields` may be taken for granted.
        quantiles: The cuts of the filter `percentile`, by field (`brew_data.prompts.percentiles`). The data build
            computes those that are missing.

    Raises:
        ConfigError: A field name is repeated or not a name, a key names an undeclared field, a number is below 1, or
            quantiles are not one ascending number per level.
    """

    fields: list[str]
    max_tokens: dict[str, PositiveInt] = field(default_factory=dict)
    cut: Annotated[str, OneOf(("fields", "end"))] = "fields"
    cut_first: list[str] = field(default_factory=list)
    alternatives: list[RecordForm] = field(default_factory=list, metadata=ADDED)
    quantiles: dict[str, list[Annotated[float, Range()]]] = field(default_factory=dict, metadata=ADDED)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.fields:
            if not re.fullmatch(r"[^\W\d]\w*", name) or name == ENTITY:
                raise ConfigError(
                    f"fields: {name!r} cannot be the name of a field. Use letters, digits and underscores, and not the "
                    f"reserved name {ENTITY!r}."
                )
            if self.fields.count(name) > 1:
                raise ConfigError(f"fields: {name!r} is listed more than once. Remove the copies.")
        named: list[tuple[str, Collection[str]]] = [
            ("max_tokens", self.max_tokens),
            ("cut_first", self.cut_first),
            ("quantiles", self.quantiles),
        ]
        for key, names in named:
            if unknown := sorted(set(names) - set(self.fields)):
                raise ConfigError(
                    f"{key} names {', '.join(unknown)}, which `fields` does not declare. Use its fields: "
                    f"{', '.join(self.fields)}."
                )
        for name, cuts in self.quantiles.items():
            if cuts and (len(cuts) != len(LEVELS) or sorted(cuts) != list(cuts)):
                raise ConfigError(
                    f"quantiles: those of {name} are not {len(LEVELS)} ascending numbers, one per level. Remove them: "
                    f"the data build computes them."
                )

    def check(self, place: str) -> None:
        """Compile and check the phrases, alternatives included.

        Args:
            place: Names the template in error messages.

        Raises:
            ConfigError: As `Phrase`, `Phrase.check_text` and `check_literal`; or an alternative does not show what the
                record's own phrases show.
        """
        self._check_phrases(place)
        for number, form in enumerate(self.alternatives, start=1):
            form_place = f"{place}, alternative {number}"
            template = self._with_form(form)
            template._check_phrases(form_place)
            if added := sorted(template.shown - self.shown):
                raise ConfigError(
                    f"{form_place} shows {', '.join(added)}, which the phrases of {place} do not show, so serving "
                    f"would never show it. Add a phrase for it there, or remove it here."
                )
            for present in self._field_sets():
                if lost := sorted(self._shown_values(present) - template._shown_values(present)):
                    only = ", ".join(sorted(present))
                    raise ConfigError(
                        f"{form_place} does not show {', '.join(lost)} if a record has only {only}, but the phrases of "
                        f"{place} do. Every form must show the same facts: add a phrase for it, or do not join it with "
                        f"a field that can be absent."
                    )

    def _check_phrases(self, place: str) -> None:
        for key in ("start", "separator", "end"):
            check_literal(getattr(self, key), f"{place}, {key}")
        for number, source in enumerate(self.phrases, start=1):
            Phrase(source, self.fields, f"{place}, phrase {number}").check_text()

    def _field_sets(self) -> Iterator[frozenset[str]]:
        """Yield sets of present fields with which forms are compared. The first declared field is in all of them.

        A phrase without conditions needs all of its fields, so its own set is enough. Of a phrase with conditions, each
        field and each pair is tried too.
        """
        yield frozenset(self.fields)
        first = frozenset(self.fields[:1])
        for phrase in self._compiled:
            yield first | phrase.fields
            for count in (1, 2):
                yield from (first.union(names) for names in combinations(sorted(phrase.fields), count))

    def _shown_values(self, present: Collection[str]) -> set[str]:
        """Return the fields whose values the text of a record with these fields contains."""
        marks = {name: f"\x00{self.fields.index(name)}\x00" for name in present}  # no filter changes them
        text = self.render(marks)
        return {name for name, mark in marks.items() if mark in text}

    @cached_property
    def _compiled(self) -> list[Phrase]:
        return [Phrase(source, self.fields, "template", self.quantiles) for source in self.phrases]

    @cached_property
    def shown(self) -> frozenset[str]:
        """The fields that occur in a phrase."""
        return frozenset().union(*(phrase.fields for phrase in self._compiled))

    @cached_property
    def percentiles(self) -> frozenset[str]:
        """The fields that a phrase, also of an alternative, shows as a percentile."""
        own = (phrase.percentiles for phrase in self._compiled)
        return frozenset().union(*own, *(self._with_form(form).percentiles for form in self.alternatives))

    @cached_property
    def _forms(self) -> list[list["RecordTemplate"]]:
        """The orders of the phrases, for each form; the first of both is this template."""
        templates = [self, *map(self._with_form, self.alternatives)]
        return [[template, *template._other_orders()] for template in templates]

    def _with_form(self, form: RecordForm) -> "RecordTemplate":
        values = {item.name: getattr(form, item.name) for item in fields(RecordForm)}
        return replace(self, alternatives=[], **values)

    def _other_orders(self) -> list["RecordTemplate"]:
        count = len(self.phrases)
        if not self.any_order or count < 2:
            return []
        orders = {
            tuple(sorted(range(count), key=lambda place: hashlib.sha256(f"{number}/{place}".encode()).digest()))
            for number in range(1, ORDERS)
        }
        return [self._in_order(order) for order in sorted(orders - {tuple(range(count))})]

    def _in_order(self, order: Sequence[int]) -> "RecordTemplate":
        compiled, template = self._compiled, copy.copy(self)  # phrases are not compiled again
        template.__dict__.update(
            phrases=[self.phrases[place] for place in order], _compiled=[compiled[place] for place in order]
        )
        return template

    def form(self, variation: Variation, part: str) -> "RecordTemplate":
        """Return the template that a document uses: this one, unless the variation draws another form or order.

        Args:
            variation: The forms of the document.
            part: Names the record in the suite.
        """
        if variation is FIRST:
            return self
        return variation.pick(f"{part}.order", variation.pick(part, self._forms))

    def render(self, values: Mapping[str, str]) -> str:
        """Render a record.

        Args:
            values: From `field_values`.

        Raises:
            UserError: As in `Phrase.render`.
        """
        texts = [text for phrase in self._compiled if (text := phrase.render(values))]
        return f"{self.start}{self.separator.join(texts)}{self.end}" if texts else ""

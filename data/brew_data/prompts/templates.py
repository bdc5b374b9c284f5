"""Compiles and renders the Jinja2 templates of a suite.

A template is a list of phrases. A phrase is text with fields, such as `in {{ location }}`, and is left out if a field
that it shows is absent. Phrases are checked when the suite is loaded: an undeclared field, a syntax error, a lone brace
or a phrase that renders blank is refused. A record can have alternative phrases, which must show the same fields.

Source: Jinja2's template syntax and its sandbox (https://jinja.palletsprojects.com/en/stable/sandbox/).
"""

import copy
import difflib
import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from itertools import combinations
from types import MappingProxyType
from typing import Annotated

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from brew_data.prompts.percentiles import LEVELS, percentile_text
from brew_data.prompts.variation import FIRST, Variation
from brew_platform.errors import ConfigError
from brew_platform.settings import OneOf, PositiveInt, Range, Settings

__all__ = ["ADDED", "Phrase", "Question", "RecordForm", "RecordTemplate", "check_literal"]

ENTITY = "entity"  # the name of the entity's text in a question
PERCENTILE = "percentile"  # the filter that shows a number as a percentile bucket
ORDERS = 8  # of the phrases of a record, the written one included

# The metadata of a field that suites of the same format version can lack. `TaskSuite.to_dict` leaves it out while it
# has its default, so that the digests of earlier prompts stay valid.
ADDED: Mapping[str, bool] = MappingProxyType({"added": True})


class _Absent(StrictUndefined):
    """An absent field: false in a condition, and an error where it is shown."""

    def __bool__(self) -> bool:  # type: ignore[override]
        return False


def _code(text: object) -> str:
    """Return eight hexadecimal digits: the same text has the same code, but its words are not shown."""
    return hashlib.sha256(str(text).encode()).hexdigest()[:8]


# `str` raises for an absent field.
_FILTERS: dict[str, Callable[[object], str]] = {
    "lines": lambda text: str(text).replace(", ", "\n"),
    "lower": lambda text: str(text).lower(),
    "upper": lambda text: str(text).upper(),
    "capitalize": lambda text: str(text).capitalize(),
    "code": _code,
}
_FILTER_NAMES = ", ".join([*_FILTERS, PERCENTILE])


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=_Absent, keep_trailing_newline=True)
    environment.globals = {}
    environment.filters = {**_FILTERS, PERCENTILE: lambda text, cuts: percentile_text(str(text), cuts)}
    environment.tests = {"defined": environment.tests["defined"]}
    return environment


_ENVIRONMENT = _environment()
_ALLOWED = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Filter, nodes.If),
    *(nodes.CondExpr, nodes.Test, nodes.Compare, nodes.Operand, nodes.Not, nodes.And, nodes.Or, nodes.Concat),
)


class Phrase:
    """One compiled phrase.

    A phrase that consists of text and fields, without conditions, is rendered by joining strings, which is several
    times faster than a Jinja2 template and gives the same text.

    Args:
        source: Jinja2 source.
        declared: The fields that may occur in it.
        place: Names the phrase in error messages.
        quantiles: For the filter `percentile`, by field: from `percentile_cuts`.

    Raises:
        ConfigError: The source is malformed, or uses a field that is not declared.
    """

    def __init__(
        self,
        source: str,
        declared: Collection[str],
        place: str,
        quantiles: Mapping[str, Sequence[float]] = MappingProxyType({}),
    ) -> None:
        self.source, self.declared, self.place = source, tuple(declared), f"{place}, template {source!r}"
        self._quantiles = dict(quantiles)
        tree = self._parse()
        self.percentiles = frozenset(name for _, name in _percentile_filters(tree))
        self._is_conditional = any(tree.find_all((nodes.If, nodes.CondExpr))) and _can_show_text(tree)
        self._parts = _straight_parts(tree, self._quantiles)
        self._template: Template | None = None
        if self._parts is None:
            self._template, self.fields = self._compile(tree)
        else:  # a Jinja2 template is not needed, and compiling it takes most of the time to load a suite
            self.fields = frozenset(part for part, change in self._parts if change is not None)
        for name in sorted(self.fields - set(declared)):
            raise ConfigError(self._unknown_field(name))

    def __reduce__(self) -> tuple:
        place = self.place.removesuffix(f", template {self.source!r}")
        return Phrase, (self.source, self.declared, place, self._quantiles)

    def render(self, values: Mapping[str, str]) -> str | None:
        """Return the text, or None if a field that the phrase shows is absent, or no condition of it applies.

        Raises:
            UserError: The phrase shows a number as a percentile, but has no quantiles of the field.
        """
        try:
            if self._parts is not None:
                return "".join([part if change is None else change(values[part]) for part, change in self._parts])
            assert self._template is not None
            text = self._template.render(values)
        except (KeyError, UndefinedError):
            return None
        return text if text.strip() else None  # no branch of its conditions applies

    def check_text(self) -> None:
        """Render the phrase with every field present.

        Raises:
            ConfigError: The result is blank whatever the fields are, or a filter cannot be applied.
        """
        try:
            text = self.render(dict.fromkeys(self.declared, "x"))
        except Exception as error:  # a filter with arguments that it does not take raises any exception
            raise ConfigError(f"{self.place} cannot be rendered ({error}). Correct the template.") from error
        if (text is None or not text.strip()) and not self._is_conditional:
            raise ConfigError(f"{self.place} renders blank text. Write text or a field into it, or remove the phrase.")

    def _parse(self) -> nodes.Template:
        try:
            tree = _ENVIRONMENT.parse(self.source)
        except TemplateSyntaxError as error:
            raise ConfigError(
                f"{self.place} is not a valid Jinja2 template ({error.message}). Write fields as {{{{ name }}}}."
            ) from error
        for node in tree.find_all(nodes.Node):
            if isinstance(node, nodes.TemplateData) and (brace := re.search(r"\{\s*(\w*)|\}", node.data)):
                name = brace.group(1) or "name"
                raise ConfigError(
                    f"{self.place} has a lone brace. Write fields with two braces, {{{{ {name} }}}}; write a brace "
                    f'that the prompt shows as {{{{ "{{" }}}}.'
                )
            if not isinstance(node, _ALLOWED):
                raise ConfigError(
                    f"{self.place} uses {type(node).__name__}, which templates may not. Use fields, `if`, comparisons "
                    f"and the filters {_FILTER_NAMES}."
                )
        for found, name in _percentile_filters(tree):
            if not name or found.args or found.kwargs or found.dyn_args or found.dyn_kwargs:
                raise ConfigError(
                    f"{self.place} uses the filter {PERCENTILE} otherwise than on a field. Write "
                    f"{{{{ name | {PERCENTILE} }}}}."
                )
        return tree

    def _compile(self, tree: nodes.Template) -> tuple[Template, frozenset[str]]:
        for found, name in _percentile_filters(tree):
            cuts = self._quantiles.get(name)
            found.args = [nodes.Const(None if cuts is None else tuple(cuts))]
        try:
            return _ENVIRONMENT.from_string(tree), frozenset(meta.find_undeclared_variables(tree))
        except TemplateError as error:  # an unknown filter or test
            raise ConfigError(
                f"{self.place} is not a valid template ({error.message}). The filters are {_FILTER_NAMES}; the only "
                f"test is defined."
            ) from error

    def _unknown_field(self, name: str) -> str:
        if not self.declared:
            return f"{self.place} uses the field {name!r}, but no field is declared. Add it to `fields`."
        near = difflib.get_close_matches(name, self.declared, n=1, cutoff=0.0)
        return (
            f"{self.place} uses the field {name!r}, which is not declared. Did you mean {near[0]}? Declared are "
            f"{', '.join(self.declared)}; add it to `fields` if it is another field."
        )


def check_literal(text: str, place: str) -> None:
    """Refuse the syntax of a field in text that is not a template: prompts would show it as it is written.

    Raises:
        ConfigError: The text has a field such as `{{ title }}` or `{title}`.
    """
    if found := re.search(r"\{\{|\{%|\{\s*\w+\s*\}", text):
        raise ConfigError(
            f"{place} is {text!r}. It is shown as it is written, so {found[0]} would not become the value of a field. "
            f"Move the field into a phrase or a question."
        )


def _percentile_filters(tree: nodes.Template) -> list[tuple[nodes.Filter, str]]:
    """Return each filter `percentile` with the name of its field, which is empty if it is not applied to a field."""
    return [
        (found, found.node.name if isinstance(found.node, nodes.Name) else "")
        for found in tree.find_all(nodes.Filter)
        if found.name == PERCENTILE
    ]


def _can_show_text(tree: nodes.Template) -> bool:
    """Whether some branch has text or an expression."""
    shown = (node for output in tree.find_all(nodes.Output) for node in output.nodes)
    return any(not isinstance(node, nodes.TemplateData) or bool(node.data.strip()) for node in shown)


def _straight_parts(
    tree: nodes.Template, quantiles: Mapping[str, Sequence[float]]
) -> list[tuple[str, Callable[[str], str] | None]] | None:
    """Return (text, None) or (field name, its filter) for each part, or None if the phrase has other expressions."""
    parts: list[tuple[str, Callable[[str], str] | None]] = []
    for statement in tree.body:
        if not isinstance(statement, nodes.Output):
            return None
        for node in statement.nodes:
            if isinstance(node, nodes.TemplateData):
                parts.append((node.data, None))
            elif isinstance(node, nodes.Name):
                parts.append((node.name, str))
            elif (
                isinstance(node, nodes.Filter)
                and isinstance(node.node, nodes.Name)
                and (node.name in _FILTERS or node.name == PERCENTILE)
                and not (node.args or node.kwargs or node.dyn_args or node.dyn_kwargs)
            ):
                name = node.node.name
                change = _FILTERS.get(node.name) or partial(percentile_text, cuts=quantiles.get(name))
                parts.append((name, change))
            else:
                return None
    return parts


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

"""Compiles and renders the Jinja2 templates of a suite.

A template is a list of phrases. A phrase is text with fields, such as `in {{ location }}`, and is left out if a field
that it shows is absent. Phrases are checked when the suite is loaded: an undeclared field, a syntax error, a lone brace
or a phrase that renders blank is refused.

Source: Jinja2's template syntax and its sandbox (https://jinja.palletsprojects.com/en/stable/sandbox/).
"""

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from brew_platform.errors import ConfigError
from brew_platform.settings import OneOf, PositiveInt, Settings

__all__ = ["Phrase", "Question", "RecordTemplate", "check_literal"]

ENTITY = "entity"  # the name of the entity's text in a question


class _Absent(StrictUndefined):
    """An absent field: false in a condition, and an error where it is shown."""

    def __bool__(self) -> bool:  # type: ignore[override]
        return False


# `str` raises for an absent field.
_FILTERS: dict[str, Callable[[object], str]] = {
    "lines": lambda text: str(text).replace(", ", "\n"),
    "lower": lambda text: str(text).lower(),
    "upper": lambda text: str(text).upper(),
    "capitalize": lambda text: str(text).capitalize(),
}


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=_Absent, keep_trailing_newline=True)
    environment.globals = {}
    environment.filters = dict(_FILTERS)
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

    Raises:
        ConfigError: The source is malformed, or uses a field that is not declared.
    """

    def __init__(self, source: str, declared: Collection[str], place: str) -> None:
        self.source, self.declared, self.place = source, tuple(declared), f"{place}, template {source!r}"
        tree = self._parse()
        self._is_conditional = any(tree.find_all((nodes.If, nodes.CondExpr))) and _can_show_text(tree)
        self._parts = _straight_parts(tree)
        self._template, self.fields = self._compile(tree)
        for name in sorted(self.fields - set(declared)):
            raise ConfigError(self._unknown_field(name))

    def __reduce__(self) -> tuple:
        return Phrase, (self.source, self.declared, self.place.removesuffix(f", template {self.source!r}"))

    def render(self, values: Mapping[str, str]) -> str | None:
        """Return the text, or None if a field that the phrase shows is absent, or no condition of it applies."""
        try:
            if self._parts is not None:
                return "".join([part if change is None else change(values[part]) for part, change in self._parts])
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
                    f"and the filters {', '.join(_FILTERS)}."
                )
        return tree

    def _compile(self, tree: nodes.Template) -> tuple[Template, frozenset[str]]:
        try:
            return _ENVIRONMENT.from_string(tree), frozenset(meta.find_undeclared_variables(tree))
        except TemplateError as error:  # an unknown filter or test
            raise ConfigError(
                f"{self.place} is not a valid template ({error.message}). The filters are "
                f"{', '.join(_FILTERS)}; the only test is defined."
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


def _can_show_text(tree: nodes.Template) -> bool:
    """Whether some branch has text or an expression."""
    shown = (node for output in tree.find_all(nodes.Output) for node in output.nodes)
    return any(not isinstance(node, nodes.TemplateData) or bool(node.data.strip()) for node in shown)


def _straight_parts(tree: nodes.Template) -> list[tuple[str, Callable[[str], str] | None]] | None:
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
                and node.name in _FILTERS
                and not (node.args or node.kwargs or node.dyn_args or node.dyn_kwargs)
            ):
                parts.append((node.node.name, _FILTERS[node.name]))
            else:
                return None
    return parts


@dataclass(frozen=True, kw_only=True)
class RecordTemplate(Settings):
    """How a record (a profile or an entity) is rendered as text.

    The text is `start`, the phrases joined with `separator`, and `end`. It is empty if no phrase is left.

    Args:
        fields: The fields that the phrases may show. The first one, usually the title, is shortened last.
        phrases: Jinja2 templates, such as "in {{ location }}". `{{ skills | lines }}` makes one line per element of
            "a, b, c". A phrase is left out if a field that it shows is absent.
        start: Text before the first phrase.
        separator: Text between phrases.
        end: Text after the last phrase. It is never cut.
        max_tokens: The maximum number of tokens of a field, by its name. Longer values end at a word.
        cut: What is shortened if the record exceeds its budget. `fields`: whole fields, those of `cut_first` in their
            order, then the longest; all other text stays. `end`: the text is cut at its end.
        cut_first: Fields to shorten first.

    Raises:
        ConfigError: A field name is repeated or not a name, a key names an undeclared field, or a number is below 1.
    """

    fields: list[str]
    phrases: list[str]
    start: str = ""
    separator: str = "\n"
    end: str = "\n"
    max_tokens: dict[str, PositiveInt] = field(default_factory=dict)
    cut: Annotated[str, OneOf(("fields", "end"))] = "fields"
    cut_first: list[str] = field(default_factory=list)

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
        for key, names in (("max_tokens", self.max_tokens), ("cut_first", self.cut_first)):
            if unknown := sorted(set(names) - set(self.fields)):
                raise ConfigError(
                    f"{key} names {', '.join(unknown)}, which `fields` does not declare. Use its fields: "
                    f"{', '.join(self.fields)}."
                )

    def check(self, place: str) -> None:
        """Compile and check the phrases.

        Args:
            place: Names the template in error messages.

        Raises:
            ConfigError: As `Phrase`, `Phrase.check_text` and `check_literal`.
        """
        for key in ("start", "separator", "end"):
            check_literal(getattr(self, key), f"{place}, {key}")
        for number, source in enumerate(self.phrases, start=1):
            Phrase(source, self.fields, f"{place}, phrase {number}").check_text()

    @cached_property
    def _compiled(self) -> list[Phrase]:
        return [Phrase(source, self.fields, "template") for source in self.phrases]

    @cached_property
    def shown(self) -> frozenset[str]:
        """The fields that occur in a phrase."""
        return frozenset().union(*(phrase.fields for phrase in self._compiled))

    def render(self, values: Mapping[str, str]) -> str:
        """Render a record.

        Args:
            values: From `field_values`.
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

    Raises:
        ConfigError: As `Phrase`; or the entity occurs more than once, inside a condition, or with a filter.
    """

    def __init__(self, source: str, fields: Collection[str], place: str) -> None:
        parts = re.split(r"\{\{\s*entity\s*\}\}", source)
        whole = Phrase(source, [*fields, ENTITY], place)
        whole.check_text()
        self.places_entity = len(parts) > 1
        if len(parts) > 2 or (ENTITY in whole.fields and not self.places_entity):
            raise ConfigError(f"{whole.place} must show {{{{ entity }}}} once, and without a filter.")
        try:
            before, after = parts if self.places_entity else (f"{source}\n", "")
            self._before, self._after = Phrase(before, fields, place), Phrase(after, fields, place)
        except ConfigError as error:
            raise ConfigError(f"{whole.place} must show {{{{ entity }}}} outside of conditions.") from error

    def render(self, profile: Mapping[str, str]) -> tuple[str, str] | None:
        """Return the text before and after the entity, or None if a field that the question shows is absent."""
        before, after = self._before.render(profile), self._after.render(profile)
        return None if before is None or after is None else (before, after)

"""Compiles and renders the phrases of a suite, which are Jinja2 templates.

A phrase is text with fields, such as `in {{ location }}`, and is left out if a field that it shows is absent. Phrases
are checked when the suite is loaded: an undeclared field, a syntax error, a lone brace or a phrase that renders blank
is refused.

Source: Jinja2's template syntax and its sandbox (https://jinja.palletsprojects.com/en/stable/sandbox/).
"""

import difflib
import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from brew_data.prompts.percentiles import percentile_text
from brew_platform.errors import ConfigError

__all__ = ["Phrase", "check_literal"]

PERCENTILE = "percentile"  # the filter that shows a number as a percentile bucket


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

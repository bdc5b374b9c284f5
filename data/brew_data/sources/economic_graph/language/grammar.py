"""Phrase tables whose alternatives refer to each other, in the manner of Tracery (Compton et al. 2015).

A few lines of our own rather than a library: the Python port of Tracery draws from the global `random` and parses a
template at each use; Faker draws from a generator of its own and writes names and addresses, but no text about facts;
Jinja has no choices. Templates here are compiled once, and a choice costs one uniform number.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

__all__ = ["Draw", "Facts", "Grammar", "sentence", "uniform_draws"]

Draw = Callable[[], float]  # returns the next uniform number in [0, 1)
Facts = Mapping[str, str | tuple[str, ...]]  # a tuple has the phrases for one fact, and each use draws one of them

_SLOT = re.compile(r"\{(\w+)\}")
_BLOCK = 64  # uniform numbers drawn at a time; a text rarely needs more


def uniform_draws(rng: np.random.Generator) -> Draw:
    """Return a function that returns uniform numbers, which it draws in blocks: a number costs 50 ns."""

    def numbers() -> Iterator[float]:
        while True:
            yield from rng.random(_BLOCK).tolist()

    return numbers().__next__


class Grammar:
    """Rules, each with alternatives; `{name}` in an alternative is a fact, or else a rule.

    Args:
        rules: Alternatives by name. All alternatives of a rule are equally likely.
    """

    def __init__(self, rules: Mapping[str, Sequence[str]]) -> None:
        self._rules = {name: tuple(map(_compile, alternatives)) for name, alternatives in rules.items()}

    @property
    def facts(self) -> frozenset[str]:
        """The names in braces that are not rules."""
        slots = {slot for rule in self._rules.values() for _, slots in rule for slot in slots}
        return frozenset(slots - self._rules.keys())

    def write(self, rule: str, facts: Facts, draw: Draw) -> str:
        """Draw an alternative of a rule, and fill it in.

        Raises:
            KeyError: An alternative refers to a name that is neither a fact nor a rule.
        """
        alternatives = self._rules[rule]
        pattern, slots = alternatives[int(draw() * len(alternatives))]
        if not slots:
            return pattern
        values = []
        for slot in slots:
            value = facts.get(slot)
            if value is None:
                value = self.write(slot, facts, draw)
            elif not isinstance(value, str):
                value = value[int(draw() * len(value))]
            values.append(value)
        return pattern % tuple(values)


def sentence(text: str) -> str:
    """Write the first letter of a text in upper case."""
    return text[:1].upper() + text[1:]


def _compile(alternative: str) -> tuple[str, tuple[str, ...]]:
    slots = tuple(_SLOT.findall(alternative))
    return (_SLOT.sub("%s", alternative.replace("%", "%%")), slots) if slots else (alternative, ())

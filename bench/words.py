"""Draws words for random documents from the synthetic vocabulary, by Zipf's law."""

from collections.abc import Iterator

import numpy as np

from brew_data.sources.synthetic import vocabulary as synthetic_vocabulary

__all__ = ["draw_words", "vocabulary"]


def draw_words(words: list[str], random: np.random.Generator, count: int) -> list[str]:
    """Draw `count` words with replacement. The probability of a word is inversely proportional to its rank."""
    ranks = 1 / np.arange(1, len(words) + 1)
    return [words[i] for i in random.choice(len(words), size=count, p=ranks / ranks.sum())]


def vocabulary() -> list[str]:
    """Return the words of the synthetic vocabulary, each once, in a fixed order."""
    found: set[str] = set()
    for name in synthetic_vocabulary.__all__:
        found.update(_strings(getattr(synthetic_vocabulary, name)))
    return sorted({word for text in found for word in text.split() if word.isalpha()})


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _strings(key)
            yield from _strings(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _strings(part)

"""Draws the forms in which training documents are written.

A suite can list alternatives: of the phrases of a record, of questions and instructions, and of label words. A document
of training uses one form of each, drawn from a hash of the seed, the member and the number of the document. Serving
always uses the first forms.

Source: 360Brew, arXiv 2501.16450, sections 4 and 6 (diverse verbalization, so that a model follows the text of a prompt
instead of memorizing one form of it).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from brew_platform.settings import NonNegativeInt, Settings, Share

__all__ = ["FIRST", "Variation", "VariationConfig"]

T = TypeVar("T")
_DRAWS = 2**64  # the number of values of `_number`


class Variation:
    """The forms of one document.

    Args:
        key: The hash that decides all draws; None: the first form of everything.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key
        self._drawn: dict[str, int] = {}

    def pick(self, part: str, forms: Sequence[T]) -> T:
        """Return one of the forms; the same for the same part of a suite, whatever else is drawn.

        Args:
            part: Names the part of the suite, such as `entities.job`.
            forms: All forms of the part; at least one.
        """
        if self._key is None or len(forms) == 1:
            return forms[0]
        number = self._drawn.get(part)
        if number is None:
            number = self._drawn[part] = _number(self._key + part.encode()) % len(forms)
        return forms[number]


FIRST = Variation()


@dataclass(frozen=True, kw_only=True)
class VariationConfig(Settings):
    """How training documents vary. Suites without alternatives, and serving, do not vary.

    Raises:
        ConfigError: A value is out of its range.
    """

    seed: NonNegativeInt = 0  # another seed draws other forms
    # Share of documents whose forms are drawn; the others are written as serving writes them. 0: no document varies.
    share: Share = 0.5

    def draw(self, member: str, document: int) -> Variation:
        """Return the forms of a document. They depend on the arguments and the settings only.

        Args:
            member: The id of the member, or of another record that the document is about.
            document: The number of the document among those of the record.
        """
        key = f"{self.seed}/{document}/{member}".encode()
        return Variation(hashlib.sha256(key).digest()) if _number(key) < self.share * _DRAWS else FIRST


def _number(key: bytes) -> int:
    """Return a number below `_DRAWS` from the SHA-256 hash of a key."""
    return int.from_bytes(hashlib.sha256(key).digest()[:8])

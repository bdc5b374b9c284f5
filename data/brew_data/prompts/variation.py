"""Draws the forms in which training documents are written.

A suite can list alternatives: of the phrases of a record, of questions and instructions, and of label words. A document
of training uses one form of each, drawn from a hash of the seed, the member and the number of the document. A member
can have several copies of its documents, each with a random part of the history. Serving always uses the first forms.

Source: 360Brew, arXiv 2501.16450, sections 4 and 6 (diverse verbalization, so that a model follows the text of a prompt
instead of memorizing one form of it).
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from brew_platform.settings import NonNegativeInt, Range, Settings, Share

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
    """How training documents vary. Suites without alternatives have one form, and serving does not vary.

    Raises:
        ConfigError: A value is out of its range.
    """

    seed: NonNegativeInt = 0  # another seed draws other forms
    # Share of documents whose forms are drawn; the others are written as serving writes them. 0: no document varies.
    share: Share = 0.5

    # Of the documents of each member, so that small data can be read several times without being learned by heart. The
    # first copy has the whole history; each other one has a random part of it.
    copies: Annotated[int, Range(ge=1, le=1_000)] = 1
    least_shown: Share = 0.3  # share of the interactions of a member that such a part has at least, on average

    def shown(self, member: str, copy: int, history: Sequence[T]) -> Sequence[T]:
        """Return the interactions that a copy of a member's documents has.

        Each is kept with the same probability, which is drawn evenly between `least_shown` and 1. The first copy has
        all.

        Args:
            member: The id of the member.
            copy: The number of the copy, from 0 on.
            history: The interactions.
        """
        if copy == 0:
            return history
        draws = random.Random(f"{self.seed}/{copy}/{member}")  # hashes the text, in every process alike
        share = draws.uniform(self.least_shown, 1)
        return [past for past in history if draws.random() < share]

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

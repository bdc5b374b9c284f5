"""Measures recall and precision of redaction on texts in which the place of every identifier is known."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from brew_data.privacy.redaction import Identifier, find_identifiers

__all__ = ["RemovalQuality", "measure_removal"]


@dataclass(kw_only=True)
class RemovalQuality:
    """Counts of identifiers and letters; letters include digits.

    Args:
        find: The detector: returns the identifiers in a line of text.
        planted: Identifiers in the texts, by kind of the truth.
        removed: Those of which every letter was removed, by kind of the truth.
        touched: Those of which some letter was removed, by kind of the truth.
        found: Identifiers that were found, by kind of the detector.
        right: Those with a letter of a planted one, by kind of the detector.
        letters_removed: Letters that were removed.
        letters_right: Those that belong to planted identifiers.
    """

    find: Callable[[str], Sequence[Identifier]] = find_identifiers
    planted: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    touched: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    letters_removed: int = 0
    letters_right: int = 0

    def add(self, text: str, planted: Iterable[Identifier]) -> None:
        """Count the identifiers of one text.

        Args:
            text: The text, as it was written.
            planted: The identifiers in it, by place in the text.
        """
        line, places = _line(text)
        found = self.find(line)
        is_removed, is_planted = bytearray(len(text)), bytearray(len(text))
        for _, start, end in found:
            for place in places[start:end]:
                is_removed[place] = 1
        for kind, start, end in planted:
            letters = [place for place in range(start, end) if text[place].isalnum()]
            for place in letters:
                is_planted[place] = 1
            self.planted[kind] += 1
            self.removed[kind] += all(is_removed[place] for place in letters)
            self.touched[kind] += any(is_removed[place] for place in letters)
        for kind, start, end in found:
            self.found[kind] += 1
            self.right[kind] += any(is_planted[place] for place in places[start:end])
        self.letters_removed += sum(is_removed[place] for place in range(len(text)) if text[place].isalnum())
        self.letters_right += sum(map(int.__and__, is_removed, is_planted))

    def figures(self) -> dict[str, object]:
        """Return the shares and the counts as plain data; a share of nothing is 1.

        Returns:
            `recall`: the share of planted identifiers of which every letter was removed. `touched`: of which a letter
            was. `precision`: the share of found identifiers with a letter of a planted one. `letter_precision`: the
            share of removed letters that belong to planted ones. `kinds` and `found`: the same by kind.
        """
        return {
            "recall": _share(self.removed.total(), self.planted.total()),
            "precision": _share(self.right.total(), self.found.total()),
            "letter_precision": _share(self.letters_right, self.letters_removed),
            "touched": _share(self.touched.total(), self.planted.total()),
            "kinds": {
                kind: {"planted": count, "removed": self.removed[kind], "recall": _share(self.removed[kind], count)}
                for kind, count in sorted(self.planted.items())
            },
            "found": {
                kind: {"found": count, "right": self.right[kind], "precision": _share(self.right[kind], count)}
                for kind, count in sorted(self.found.items())
            },
        }


def measure_removal(tables: Mapping[str, pa.Table], planted: pa.Table) -> dict[str, object]:
    """Measure redaction on the text fields of tables.

    Args:
        tables: Members and entities by the name of the table, before anything is removed.
        planted: The truth: columns table, row_id, field, start and end (characters), kind.

    Returns:
        As `RemovalQuality.figures`.
    """
    truth: dict[tuple[str, str], dict[str, list[Identifier]]] = defaultdict(lambda: defaultdict(list))
    for row in planted.to_pylist():
        identifier = Identifier(row["kind"], row["start"], row["end"])
        truth[row["table"], row["field"]][row["row_id"]].append(identifier)
    quality = RemovalQuality()
    for table, rows in tables.items():
        key, column = ("member_id", "profile") if table == "members" else ("entity_id", "fields")
        ids = rows[key].to_pylist()
        for child in rows.schema.field(column).type:
            if pa.types.is_string(child.type):
                of_field = truth.get((table, child.name), {})
                for id_, text in _present(ids, pc.struct_field(rows[column], child.name).to_pylist()):
                    quality.add(text, of_field.get(id_, ()))
    return quality.figures()


def _present(ids: Sequence[str], texts: Sequence[str | None]) -> Iterator[tuple[str, str]]:
    return ((id_, text) for id_, text in zip(ids, texts, strict=True) if text)


def _line(text: str) -> tuple[str, Sequence[int]]:
    """Return a text with single spaces, as redaction reads it, and the place of each of its characters in the text."""
    if text == (line := " ".join(text.split())):
        return text, range(len(text))
    places: list[int] = []
    for place, character in enumerate(text):
        if not character.isspace():
            if places and places[-1] < place - 1:
                places.append(place - 1)
            places.append(place)
    return line, places


def _share(count: int, total: int) -> float:
    return round(count / total, 6) if total else 1.0

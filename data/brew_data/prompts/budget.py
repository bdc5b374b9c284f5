"""Shortens records to a number of tokens, field by field, and counts what was cut."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from brew_data.prompts.templates import RecordTemplate
from brew_data.prompts.tokenizer import Tokenizer

__all__ = ["NOTHING_CUT", "Budget", "Cut"]

Ids = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What was cut from a text to fit its budget.

    Args:
        fields: The number of fields that were shortened or left out.
        tokens: The number of tokens that the text lost.
    """

    fields: int = 0
    tokens: int = 0

    def __add__(self, other: "Cut") -> "Cut":
        if other is NOTHING_CUT:  # of most texts; long histories add thousands
            return self
        return Cut(fields=self.fields + other.fields, tokens=self.tokens + other.tokens)

    def __bool__(self) -> bool:
        return bool(self.fields or self.tokens)


NOTHING_CUT = Cut()


class Budget:
    """Renders records within a number of tokens.

    Args:
        tokenizer: Counts the tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def fit(
        self, template: RecordTemplate, values: Mapping[str, str], *, limit: int, before: str = "", after: str = ""
    ) -> tuple[Ids, Cut]:
        """Render a record between two texts, and shorten it to `limit` tokens.

        First, fields are shortened to their own `max_tokens`. If the text is still too long, fields are shortened in
        the order of `RecordTemplate`. If that is not enough, or for `cut: end`, the text is cut before `end`.

        Args:
            template: The template of the record.
            values: From `field_values`.
            limit: The maximum number of tokens.
            before: Text before the record. For `cut: fields`, it has at most half of the tokens of a text that is
                shortened.
            after: Text after the record; it is never shortened.

        Returns:
            Token ids, and what was cut.
        """
        return _Fit(self._tokenizer).fit(template, values, limit=limit, before=before, after=after)


class _Fit:
    """One call of `Budget.fit`. Its steps encode some texts several times; their ids are kept until it ends."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._encode = cache(tokenizer.encode)

    def fit(
        self, template: RecordTemplate, values: Mapping[str, str], *, limit: int, before: str, after: str
    ) -> tuple[Ids, Cut]:
        encode = self._encode

        def render() -> Ids:
            return encode(f"{before}{template.render(kept)}{after}")

        kept = dict(values)
        ids = full = render()
        for name, most in template.max_tokens.items():
            if name in kept:
                self._shorten_field(template, kept, name, most, required=name == template.fields[0])
        if template.max_tokens:
            ids = render()
        if template.cut == "fields" and len(ids) > limit:
            if len(encode(before)) > limit // 2:
                before = self._shorten(before, limit // 2) + before[len(before.rstrip()) :]
                ids = render()
            order = self._order(template, kept)
            for name in order:
                most, required = len(encode(kept[name])), name == order[-1]
                while len(ids) > limit and name in kept and (most > 1 or not required):
                    most -= len(ids) - limit
                    self._shorten_field(template, kept, name, max(most, 1) if required else most, required=required)
                    ids = render()
        if len(ids) > limit:
            ids = self._cut_end(before, template, kept, after, limit)
        fields = sum(kept.get(name) != value for name, value in values.items())
        return ids, Cut(fields=fields, tokens=max(0, len(full) - len(ids))) if ids != full else NOTHING_CUT

    def _order(self, template: RecordTemplate, values: Mapping[str, str]) -> list[str]:
        """Return the fields to shorten: those of `cut_first`, then the longest, and the first declared field last.

        The last one is shortened, but never left out.
        """
        shown = [name for name in template.fields if name in values and name in template.shown]
        rest = sorted(
            (name for name in shown if name not in template.cut_first),
            key=lambda name: (name == template.fields[0], -len(self._encode(values[name]))),
        )
        return [*(name for name in template.cut_first if name in shown), *rest]

    def _shorten_field(
        self, template: RecordTemplate, values: dict[str, str], name: str, most: int, *, required: bool
    ) -> None:
        """Shorten a field to at most `most` tokens. If nothing is left, leave it out, or keep it if it is required.

        A number that is shown as a percentile is left out: its first digits would be another number.
        """
        short = self._shorten(values[name], most)
        if short != values[name] and name in template.percentiles:
            short = ""
        if short:
            values[name] = short
        elif not required:
            del values[name]

    def _shorten(self, text: str, most: int) -> str:
        """Return a beginning of a text that has at most `most` tokens, and ends at a word unless it is one word."""
        if most < 1:
            return ""
        ids = self._encode(text)
        if len(ids) <= most:
            return text
        begin = self._tokenizer.decode(ids[:most])
        if not text.startswith(begin) or len(self._encode(begin)) > most:  # the cut is inside a character
            begin = text[: _most_that_fit(len(text), lambda count: len(self._encode(text[:count])) <= most)]
        if not text.startswith(" ", len(begin)):
            words = begin.rpartition(" ")[0]
            if words and len(self._encode(words)) <= most:
                begin = words
        return begin.rstrip(" ,;:")

    def _cut_end(self, before: str, template: RecordTemplate, values: Mapping[str, str], after: str, limit: int) -> Ids:
        """Cut the text before the end of the record. An end that is only white space is cut too."""
        encode = self._encode
        text = f"{before}{template.render(values)}"
        end = f"{template.end}{after}"
        if not end.strip():
            return encode(f"{text}{after}")[:limit]
        end_ids = encode(end)[:limit]
        return (*encode(text.removesuffix(template.end))[: limit - len(end_ids)], *end_ids)


def _most_that_fit(count: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `count` that fits, by bisection; 0 if none does."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low

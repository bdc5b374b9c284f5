"""Instructions for which a served model writes answers, and the rules that rank the answers."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

__all__ = ["Instruction", "score_answer"]


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """A request, and what can be checked of an answer to it.

    Args:
        id: Unique among the instructions.
        prompt: The text of the user.
        instruction: The system message.
        profile: The profile of the member.
        labels: An answer begins with one of them; empty: with anything.
        label: The label that the member's action had; None: unknown.
        most_words: The largest number of words of an answer; None: any.
        pattern: A regular expression that the whole answer matches; None: any answer does.
    """

    id: str
    prompt: str
    instruction: str = ""
    profile: str = ""
    labels: tuple[str, ...] = ()
    label: str | None = None
    most_words: int | None = None
    pattern: str | None = None


def score_answer(instruction: Instruction, answer: str, *, is_whole: bool = True) -> float:
    """Return the share of the rules that an answer meets, 0 to 1; 0 for an empty answer.

    The rules, as far as the instruction sets them: it begins with a known label; the label is that of the action; it
    has at most `most_words` words; it matches the pattern; most of its letters belong to the script (such as Latin or
    Arabic) of most letters of the prompt; it is whole.

    Args:
        instruction: What was to be answered.
        answer: The text of the answer.
        is_whole: Whether the model ended it; otherwise it was cut at the largest number of tokens.
    """
    text = answer.strip()
    if not text:
        return 0.0
    label = _label(instruction.labels, text)
    rules = [is_whole, _script(text) in (None, _script(instruction.prompt))]
    if instruction.labels:
        rules.append(label is not None)
    if instruction.label is not None:
        rules.append(label == instruction.label)
    if instruction.most_words is not None:
        rules.append(len(text.split()) <= instruction.most_words)
    if instruction.pattern is not None:
        rules.append(re.fullmatch(instruction.pattern, text, re.DOTALL) is not None)
    return sum(rules) / len(rules)


def _label(labels: tuple[str, ...], text: str) -> str | None:
    """Return the longest label that the text begins with, as whole words, in upper or lower case."""
    found = [label for label in labels if re.match(rf"{re.escape(label)}(?!\w)", text, re.IGNORECASE)]
    return max(found, key=len, default=None)


def _script(text: str) -> str | None:
    """Return the script of most letters; None without letters."""
    names = Counter(unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
    return names.most_common(1)[0][0] if names else None

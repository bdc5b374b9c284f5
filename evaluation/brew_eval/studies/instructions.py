"""Verifiable instructions: what a prompt demands of the form of its answer, and the rule that checks it.

The scheme is that of IFEval (Zhou et al. 2023, arXiv 2311.07911): an instruction is followed if a rule holds, never by
the judgement of a model. Its loose criterion (section 2.3) forgives a first or last line that introduces or ends the
answer, and the asterisks of Markdown.
"""

import json
import random
import re
import string
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

__all__ = ["KINDS", "LANGUAGES", "Instruction", "draw_instructions", "follows", "loose_forms"]

# Frequent words that the other languages do not have: the rule counts them.
LANGUAGES: dict[str, frozenset[str]] = {
    "English": frozenset(
        ["the", "and", "of", "to", "is", "that", "with", "this", "for", "they", "their", "would", "are", "because"]
    ),
    "German": frozenset(
        ["der", "die", "das", "und", "ist", "nicht", "mit", "für", "ein", "eine", "den", "sich", "auf", "weil"]
    ),
    "French": frozenset(
        ["le", "les", "et", "est", "dans", "une", "pour", "qui", "avec", "il", "elle", "sur", "ce", "parce"]
    ),
    "Spanish": frozenset(
        ["el", "los", "y", "en", "una", "por", "las", "su", "lo", "porque", "ella", "pero", "muy", "está"]
    ),
    "Portuguese": frozenset(
        ["o", "os", "e", "em", "uma", "não", "um", "ao", "das", "seu", "sua", "porque", "ela", "mas"]
    ),
}
_ENDINGS = ("That is all.", "End of answer.", "I am sure.")
_KEYS = ("answer", "reason", "entity", "member", "confidence")


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """An instruction and its rule.

    Args:
        kind: One of `KINDS`.
        text: The sentence in the prompt.
        holds: Whether an answer, which is not blank, follows it.
    """

    kind: str
    text: str
    holds: Callable[[str], bool]


def follows(instruction: Instruction, answer: str, *, loose: bool = False) -> bool:
    """Whether an answer follows an instruction; a blank answer follows none.

    Args:
        instruction: The instruction.
        answer: Text of the model.
        loose: Whether any of `loose_forms` suffices.
    """
    forms = loose_forms(answer) if loose else [answer]
    return any(form.strip() and instruction.holds(form.strip()) for form in forms)


def loose_forms(answer: str) -> list[str]:
    """Return the answer, and that without its first line, its last line and its asterisks, in all combinations."""
    lines = answer.split("\n")
    found = []
    for first, last, asterisks in product((False, True), repeat=3):
        text = "\n".join(lines[1 if first else 0 : len(lines) - 1 if last else len(lines)]).strip()
        found.append(text.replace("*", "") if asterisks else text)
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _one_label(draw: random.Random, labels: Sequence[str], names: Sequence[str]) -> Instruction:
    listed = ", ".join(labels)
    return Instruction(
        kind="one_label",
        text=f"Answer with exactly one of these words, and nothing else: {listed}.",
        holds=lambda answer: answer.lower() in {label.lower() for label in labels},
    )


def _upper_case(draw: random.Random, labels: Sequence[str], names: Sequence[str]) -> Instruction:
    return Instruction(kind="upper_case", text="Write your entire answer in capital letters.", holds=str.isupper)


def _lower_case(draw: random.Random, labels: Sequence[str], names: Sequence[str]) -> Instruction:
    return Instruction(kind="lower_case", text="Write your entire answer in small letters.", holds=str.islower)


def _json_keys(draw: random.Random, labels: Sequence[str], names: Sequence[str]) -> Instruction:
    keys = draw.sample(_KEYS, draw.randint(2, 3))

    def holds(answer: str) -> bool:
        text = re.sub(r"^```(?:json)?\s*|\s*```$", "", answer)  # as IFEval, a fence around the JSON is accepted
        try:
            value: Any = json.loads(text)
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict) and {str(key).lower() for key in value} == set(keys)

    text = f"Answer in JSON, as an object with exactly the keys {', '.join(json.dumps(key) for key in keys)}."
    return Instruction(kind="json_keys", text=text, holds=holds)


def _most_words(draw: random.Random, labels: Sequence[str], names: Sequence[str]) -> Instruction:
    most = draw.choice((5, 10, 20, 40))
    return Instruction(
        kind="most_words", text=f"Use at most {most} words.", holds=lambda answer: len(_words(answer)) <= most
    )


def _least_words(draw: random.Random, labels: Sequence[str], names: Sequence[str]) -> Instruction:
    least = draw.choice((15, 25))
    return Instruction(
        kind="least_words", text=f"Use at least {least} words.", holds=lambda answer: len(_words(answer)) >= least
    )


def _language(draw: random.Random, labels: Sequence[str], names: Sequence[str]) -> Instruction:
    language = draw.choice(list(LANGUAGES))

    def holds(answer: str) -> bool:
        words = _words(answer)
        counts = {name: sum(word in frequent for word in words) for name, frequent in LANGUAGES.items()}
        return all(counts[language] > count for name, count in counts.items() if name != language)

    return Instruction(kind="language", text=f"Answer in {language}, in full sentences.", holds=holds)


def _end_with(draw: random.Random, labels: Sequence[str], names: Sequence[str]) -> Instruction:
    ending = draw.choice(_ENDINGS)
    return Instruction(
        kind="end_with",
        text=f'End your answer with the exact sentence "{ending}" Nothing follows it.',
        holds=lambda answer: answer.strip('"').lower().endswith(ending.lower()),
    )


def _mention(draw: random.Random, labels: Sequence[str], names: Sequence[str]) -> Instruction:
    name = draw.choice(names)
    return Instruction(
        kind="mention", text=f'Mention "{name}" in your answer.', holds=lambda answer: name.lower() in answer.lower()
    )


def _avoid(draw: random.Random, labels: Sequence[str], names: Sequence[str]) -> Instruction:
    word = draw.choice([word for word in _words(" ".join(names)) if len(word) > 3] or ["member"])
    return Instruction(
        kind="avoid", text=f'Do not use the word "{word}".', holds=lambda answer: word not in _words(answer)
    )


def _bullets(draw: random.Random, labels: Sequence[str], names: Sequence[str]) -> Instruction:
    count = draw.randint(2, 4)
    return Instruction(
        kind="bullets",
        text=f"Answer with exactly {count} bullet points, each on a line that begins with a hyphen.",
        holds=lambda answer: len(re.findall(r"^\s*-\s*[^-\s]", answer, re.MULTILINE)) == count,
    )


def _no_punctuation(draw: random.Random, labels: Sequence[str], names: Sequence[str]) -> Instruction:
    return Instruction(
        kind="no_punctuation",
        text="Use no punctuation.",
        holds=lambda answer: not set(answer) & set(string.punctuation),
    )


_Make = Callable[[random.Random, Sequence[str], Sequence[str]], Instruction]
_MAKERS: dict[str, _Make] = {
    "one_label": _one_label,
    "upper_case": _upper_case,
    "lower_case": _lower_case,
    "json_keys": _json_keys,
    "most_words": _most_words,
    "least_words": _least_words,
    "language": _language,
    "end_with": _end_with,
    "mention": _mention,
    "avoid": _avoid,
    "bullets": _bullets,
    "no_punctuation": _no_punctuation,
}
KINDS = tuple(_MAKERS)
# Kinds that may be together with the kind; every pair in another list could contradict each other.
_TOGETHER: dict[str, tuple[str, ...]] = {
    "one_label": ("upper_case",),
    "upper_case": ("one_label", "most_words", "language", "mention", "avoid", "bullets", "no_punctuation"),
    "lower_case": ("most_words", "language", "mention", "avoid", "bullets", "no_punctuation"),
    "json_keys": ("mention", "avoid"),
    "most_words": ("upper_case", "lower_case", "avoid"),
    "least_words": ("language", "mention", "avoid", "end_with"),
    "language": ("upper_case", "lower_case", "least_words", "avoid"),
    "end_with": ("least_words", "mention", "bullets"),
    "mention": ("upper_case", "lower_case", "json_keys", "least_words", "end_with", "bullets"),
    "avoid": ("upper_case", "lower_case", "json_keys", "most_words", "least_words", "language", "bullets"),
    "bullets": ("upper_case", "lower_case", "end_with", "mention", "avoid"),
    "no_punctuation": ("upper_case", "lower_case"),
}


def draw_instructions(
    draw: random.Random, *, labels: Sequence[str], names: Sequence[str], most: int, kinds: Collection[str] = KINDS
) -> list[Instruction]:
    """Draw one to `most` instructions that do not contradict each other.

    Args:
        draw: Source of the choice.
        labels: Answers of the task, for `one_label`.
        names: Texts of the prompt that an answer can mention.
        most: The maximum number.
        kinds: Kinds to draw from.
    """
    chosen: list[str] = []
    for kind in draw.sample(sorted(kinds), len(kinds)):
        if len(chosen) < most and all(kind in _TOGETHER[other] for other in chosen):
            chosen.append(kind)
    return [_MAKERS[kind](draw, labels, names) for kind in chosen[: draw.randint(1, len(chosen))]]

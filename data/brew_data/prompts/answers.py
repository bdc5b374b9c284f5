"""Answers: the labels of tasks and surfaces as token ids, none of which begins another."""

from collections.abc import Mapping
from itertools import pairwise

from brew_data.prompts.task_suite import TaskSuite
from brew_data.prompts.tasks import Surface, TaskSpec
from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.errors import UserError

__all__ = ["encode_answers", "longest_answer"]

Ids = tuple[int, ...]


def encode_answers(tokenizer: Tokenizer, suite: TaskSuite, source: TaskSpec | Surface) -> list[dict[str, Ids]]:
    """Return the answers of each outcome of a task or action of a surface, by name, for each form of the labels.

    An answer is the label. If a label begins another one, as "like" begins "like strongly", each answer of this form is
    its label and `<|end|>`.

    Args:
        tokenizer: Encodes the labels.
        suite: The suite of `source`.
        source: The task or surface.

    Raises:
        UserError: Two labels of a form have the same token ids.
    """
    if isinstance(source, Surface):
        owner, kind, names = f"surface {source.name}", "action", [action.name for action in source.actions]
    else:
        owner, kind = f"task {source.name}", "outcome"
        names = [outcome.name for outcome in suite.outcomes(source)]
    forms = suite.label_forms(source)
    return [_encode(tokenizer, dict(zip(names, labels, strict=True)), owner, kind) for labels in forms]


def _encode(tokenizer: Tokenizer, texts: Mapping[str, str], owner: str, kind: str) -> dict[str, Ids]:
    labels = {name: tokenizer.encode(label) for name, label in texts.items()}
    names: dict[Ids, str] = {}
    for name, ids in labels.items():
        if ids in names:
            raise UserError(
                f"{owner}: the labels of {kind}s {names[ids]!r} and {name!r} have the same token ids, so their "
                f"probabilities cannot be separated; change one of them."
            )
        names[ids] = name
    # In lexicographic order, a label that begins others begins the next one.
    ends = any(ids == longer[: len(ids)] for ids, longer in pairwise(sorted(labels.values()))) or any(
        longer.startswith(text) for text, longer in pairwise(sorted(texts.values()))
    )
    return {name: (*ids, tokenizer.end) for name, ids in labels.items()} if ends else labels


def longest_answer(answers: Mapping[str, list[dict[str, Ids]]]) -> int:
    """Return the number of tokens of the longest answer.

    Args:
        answers: Of `encode_answers`, by the name of their task or surface.
    """
    return max((len(ids) for forms in answers.values() for labels in forms for ids in labels.values()), default=1)

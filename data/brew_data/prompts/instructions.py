"""Instructions: the first text of a prompt, which can list the labels of the task and of its history."""

from collections.abc import Iterable, Sequence

from brew_data.prompts.phrases import Phrase
from brew_data.prompts.tasks import TaskSpec

__all__ = ["ACTIONS", "LABELS", "compile_instructions", "render_instruction"]

LABELS, ACTIONS = "labels", "actions"  # the fields of an instruction


def compile_instructions(task: TaskSpec, place: str) -> list[Phrase]:
    """Compile and check the instruction of a task in all forms, the first first.

    Args:
        task: The task.
        place: Names the instruction in error messages.

    Raises:
        ConfigError: As `Phrase` and `Phrase.check_text`.
    """
    others = enumerate(task.instruction_alternatives, start=1)
    forms = [(place, task.instruction), *((f"{place} alternative {number}", text) for number, text in others)]
    phrases = [Phrase(text, [LABELS, ACTIONS], name) for name, text in forms]
    for phrase in phrases:
        phrase.check_text()
    return phrases


def render_instruction(phrase: Phrase, labels: Sequence[str], history: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Render an instruction.

    Args:
        phrase: A form of `compile_instructions`.
        labels: Those of the task.
        history: Name and labels of each surface of the history.
    """
    actions = (f"{name.replace('_', ' ')}: {', '.join(below)}" for name, below in history)
    return phrase.render({LABELS: ", ".join(labels), ACTIONS: "; ".join(actions)}) or ""

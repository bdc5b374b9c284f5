"""The prompt of a row, and the same prompt without one of its parts.

A part is a past interaction that the prompt shows, a field of the profile, or a field of the candidate. For each part
the compiler compiles the prompt again from the records without it. The other turns of the history stay as they are: the
budget that becomes free is not filled, so that a change is that of the part alone. A field of the profile is removed
from every question that repeats it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.entity import Entity, PastInteraction
from brew_data.prompts.tasks import TaskSpec

__all__ = ["CompiledPrompt", "Kind", "LeftOut", "Part", "PromptPart", "PromptRow", "PromptVariants"]

Ids = tuple[int, ...]
Kind = Literal["profile", "interaction", "entity"]


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """A row whose score is explained.

    Args:
        task: The task that scores it.
        profile: The member's fields, from `field_values`.
        history: The member's interactions, sorted by time.
        candidate: The entity.
        before: Only strictly earlier interactions are history, in microseconds since 1970, UTC.

    Raises:
        ValueError: The history is not sorted.
    """

    task: TaskSpec
    profile: Mapping[str, str]
    history: Sequence[PastInteraction]
    candidate: Entity
    before: int

    def __post_init__(self) -> None:
        if any(earlier.timestamp > later.timestamp for earlier, later in pairwise(self.history)):
            raise ValueError("the history is not sorted by time, so that places in it are not those of the prompt")


@dataclass(frozen=True)
class Part:
    """What can be removed from a prompt.

    Args:
        kind: interaction, or a field of the `profile` or of the candidate (`entity`).
        key: Of an interaction, its place in the history; of a field, its name.
    """

    kind: Kind
    key: int | str


class CompiledPrompt(NamedTuple):
    """The token ids before the candidate, and those of its question."""

    prefix_ids: Ids
    question_ids: Ids


@dataclass(frozen=True)
class LeftOut:
    """A part without a score, and the reason."""

    kind: Kind
    name: str
    reason: str


@dataclass(frozen=True)
class PromptPart:
    """A part of the prompt as the model reads it.

    Args:
        name: instruction, profile, turn 1 and so on, or candidate.
        text: With control tokens.
        tokens: Number of tokens.
    """

    name: str
    text: str
    tokens: int


class PromptVariants:
    """Compiles the prompt of a row, and the same prompt without one of its parts.

    Args:
        compiler: Compiles the prompts of the model.
        row: The row.

    Raises:
        UserError: As `PromptCompiler.prefix` and `PromptCompiler.question`.
    """

    def __init__(self, compiler: PromptCompiler, row: PromptRow) -> None:
        self.compiler, self.row = compiler, row
        self._member = compiler.member(row.profile, row.history)
        self._prefix = self._member.prefix(row.task, candidate=row.candidate, before=row.before)
        self.prompt = CompiledPrompt(self._prefix.ids, compiler.question(row.task, row.profile, row.candidate)[0])

    @property
    def shown(self) -> Ids:
        """The interactions that the prompt shows: their places in the history, ascending."""
        return self._prefix.shown

    def parts(self) -> list[Part]:
        """Return the parts in the order of the prompt: fields of the profile, interactions, fields of the candidate."""
        return [
            *(Part("profile", name) for name in self.row.profile),
            *(Part("interaction", place) for place in self.shown),
            *(Part("entity", name) for name in self.row.candidate.values),
        ]

    def without(self, part: Part) -> CompiledPrompt:
        """Compile the prompt without a part. It is the same prompt if the prompt does not show the part.

        Raises:
            UserError: As in the constructor.
        """
        row, compiler = self.row, self.compiler
        if part.kind == "interaction":
            shown = [place for place in self.shown if place != part.key]
            prefix = self._member.prefix_of(row.task, shown, before=row.before)
            return CompiledPrompt(prefix.ids, self.prompt.question_ids)
        if part.kind == "entity":
            question, _ = compiler.question(row.task, row.profile, self._candidate_without(part))
            return CompiledPrompt(self.prompt.prefix_ids, question)
        profile = _without(row.profile, part.key)
        prefix = compiler.member(profile, row.history).prefix_of(row.task, self.shown, before=row.before)
        return CompiledPrompt(prefix.ids, compiler.question(row.task, profile, row.candidate)[0])

    def leave_one_out(self) -> tuple[dict[Part, CompiledPrompt], list[LeftOut]]:
        """Compile the prompt without each part.

        Returns:
            The prompts that differ from the whole prompt, and the parts that the prompt does not show.
        """
        prompts: dict[Part, CompiledPrompt] = {}
        left_out: list[LeftOut] = []
        for part in self.parts():
            prompt, reason = self.without(part), ""
            if prompt == self.prompt:
                reason = (
                    "no template of the suite shows it"
                    if self._texts() == self._texts(part)
                    else "it was cut to fit the token budget, so that the prompt does not show it"
                )
            elif len(prompt.prefix_ids) > self.compiler.prefix_budget:
                reason = "without it, longer questions are used, and the prompt exceeds the context"
            if reason:
                left_out.append(LeftOut(part.kind, self.name(part), reason))
            else:
                prompts[part] = prompt
        return prompts, left_out

    def name(self, part: Part) -> str:
        """Return the name of a part: turn 1 and so on, or the name of the field."""
        return str(part.key) if part.kind != "interaction" else f"turn {self.shown.index(int(part.key)) + 1}"

    def text(self, part: Part) -> str:
        """Return what a part says, on a single line and without any budget."""
        row, suite = self.row, self.compiler.suite
        if part.kind == "profile":
            return row.profile[str(part.key)]
        if part.kind == "entity":
            return row.candidate.values[str(part.key)]
        past = row.history[int(part.key)]
        entity = " ".join(suite.entity_text(past.entity.entity_type, past.entity.values).split())
        return f"{suite.surface(past.surface).label(past.action)}: {entity}"

    def prompt_parts(self) -> list[PromptPart]:
        """Return the parts of the whole prompt as text."""
        tokenizer = self.compiler.tokenizer
        head, _ = self.compiler.head_of(self.row.task, self.row.profile)
        profile = head.index(tokenizer.member)
        turns = self._member.turns(self.row.task, self.shown)
        ids = {"instruction": head[:profile], "profile": head[profile:]}
        ids |= {f"turn {number}": turn.question + turn.answer for number, turn in enumerate(turns, start=1)}
        ids["candidate"] = self.prompt.question_ids
        return [PromptPart(name, tokenizer.decode(found), len(found)) for name, found in ids.items()]

    def _candidate_without(self, part: Part) -> Entity:
        candidate = self.row.candidate
        return Entity.of_values(candidate.entity_type, _without(candidate.values, part.key))

    def _texts(self, part: Part | None = None) -> list[str]:
        """Return the texts of the prompt without any budget, without a field."""
        row, suite = self.row, self.compiler.suite
        profile, candidate = row.profile, row.candidate
        if part is not None and part.kind == "profile":
            profile = _without(profile, part.key)
        elif part is not None:
            candidate = self._candidate_without(part)
        pasts = [row.history[place] for place in self.shown]
        return [
            suite.profile_text(profile),
            *(
                suite.question_text(suite.surface(past.surface), profile, past.entity.entity_type, past.entity.values)
                for past in pasts
            ),
            suite.question_text(row.task, profile, candidate.entity_type, candidate.values),
        ]


def _without(fields: Mapping[str, str], name: int | str) -> dict[str, str]:
    return {key: value for key, value in fields.items() if key != name}

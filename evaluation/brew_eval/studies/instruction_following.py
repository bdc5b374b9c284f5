"""Instruction following in the domain of the product: prompts on members and entities, scored by rules.

Figures, as in IFEval (Zhou et al. 2023, arXiv 2311.07911, section 2.3): the share of prompts of which all instructions
are followed, and the share of instructions that are followed, each by the strict and by the loose criterion.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from brew_data.prompts.chat import chat_ids
from brew_data.prompts.compiler import PromptCompiler
from brew_data.records import Records
from brew_eval.studies.instructions import Instruction, draw_instructions, follows
from brew_eval.studies.probe import ProbedModel, gather_in_order, mean_figure
from brew_eval.studies.study_table import StudyPoint
from brew_platform.errors import UserError
from brew_platform.settings import NonNegativeInt, PositiveInt, Settings
from brew_serve.engines.base import generate

__all__ = ["InstructionConfig", "InstructionPrompt", "make_prompts", "measure_instructions", "score_answers"]


@dataclass(frozen=True, kw_only=True)
class InstructionConfig(Settings):
    """Settings of an instruction study."""

    prompts: PositiveInt = 200  # number of prompts
    most_instructions: PositiveInt = 3  # of one prompt
    max_tokens: PositiveInt = 96  # of an answer
    seed: NonNegativeInt = 0  # of the prompts
    in_flight: PositiveInt = 16  # prompts in the engine at a time


@dataclass(frozen=True, kw_only=True)
class InstructionPrompt:
    """A prompt, as text, and the instructions that its answer is checked by."""

    text: str
    instructions: Sequence[Instruction]


def make_prompts(compiler: PromptCompiler, records: Records, config: InstructionConfig) -> list[InstructionPrompt]:
    """Make prompts about members and entities that are drawn; the same settings make the same prompts.

    Args:
        compiler: Of the model; its suite renders the records.
        records: Members and entities.
        config: The study.

    Raises:
        UserError: There is no member, or no entity that the suite shows.
    """
    suite, draw = compiler.suite, random.Random(config.seed)
    surfaces = [suite.surface(task.surface) for task in suite.tasks]
    by_type = {surface.entity_type: surface for surface in surfaces}
    entities = [entity for entity in records.entities.values() if entity.entity_type in by_type]
    profiles = list(records.profiles.values())
    if not entities or not profiles:
        raise UserError("the data have no member or no entity that a task is about. Use other data.")
    found = []
    for _ in range(config.prompts):
        task = draw.choice(suite.tasks)
        surface = suite.surface(task.surface)
        about = draw.choice([entity for entity in entities if entity.entity_type == surface.entity_type] or entities)
        profile = draw.choice(profiles)
        shown = suite.entities[about.entity_type].render(about.values)
        names = [value for value in about.values.values() if value.strip()] or [about.entity_type]
        instructions = draw_instructions(
            draw,
            labels=[outcome.label for outcome in suite.outcomes(task)],
            names=names,
            most=config.most_instructions,
        )
        lines = [
            suite.instruction(task),
            f"Member:\n{suite.profile.render(profile)}",
            f"{about.entity_type.replace('_', ' ').capitalize()}:\n{shown}",
            " ".join(instruction.text for instruction in instructions),
        ]
        found.append(InstructionPrompt(text="\n\n".join(lines), instructions=instructions))
    return found


def score_answers(prompts: Sequence[InstructionPrompt], answers: Sequence[str]) -> list[StudyPoint]:
    """Return the share of prompts and of instructions that are followed, strict and loose, and by kind.

    Args:
        prompts: The prompts.
        answers: The text for each.
    """
    points = []
    by_kind: dict[str, list[bool]] = {}
    for criterion in ("strict", "loose"):
        held = [
            [follows(instruction, answer, loose=criterion == "loose") for instruction in prompt.instructions]
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        levels = {
            "prompts": mean_figure([float(all(each)) for each in held]),
            "instructions": mean_figure([float(sum(each)) for each in held], [float(len(each)) for each in held]),
        }
        for level, value in levels.items():
            rows = len(held) if level == "prompts" else sum(map(len, held))
            series = f"{level}, {criterion}"
            points.append(StudyPoint(figure="followed", series=series, point=series, value=value, rows=rows))
        if criterion == "strict":
            for prompt, each in zip(prompts, held, strict=True):
                for instruction, is_followed in zip(prompt.instructions, each, strict=True):
                    by_kind.setdefault(instruction.kind, []).append(is_followed)
    for kind, values in sorted(by_kind.items()):
        value = mean_figure([float(is_followed) for is_followed in values])
        points.append(
            StudyPoint(figure="followed by kind, strict", series=kind, point=kind, value=value, rows=len(values))
        )
    return points


async def measure_instructions(model: ProbedModel, config: InstructionConfig) -> list[StudyPoint]:
    """Generate an answer to each prompt, by the likeliest tokens, and check it; returns what `score_answers` returns.

    Raises:
        UserError: As `make_prompts`, or a prompt and its answer exceed the context.
    """
    compiler = model.compiler
    prompts = make_prompts(compiler, model.records, config)

    async def answer(prompt: InstructionPrompt) -> str:
        ids = chat_ids(compiler.tokenizer, [("user", prompt.text)])
        text = await generate(model.engine, ids, model.sampling(config.max_tokens))
        return compiler.tokenizer.decode(text.ids)

    return score_answers(prompts, await gather_in_order(answer, prompts, in_flight=config.in_flight))

"""Prompts of instructions about members and entities, and the figures of answers that follow some of them."""

import asyncio
from collections.abc import Callable

import pytest

from brew_data.records import Records
from brew_eval.studies.instruction_following import (
    InstructionConfig,
    InstructionPrompt,
    make_prompts,
    measure_instructions,
    score_answers,
)
from brew_eval.studies.instructions import Instruction
from brew_eval.studies.probe import ProbedModel

from .conftest import Rule

Make = Callable[[Rule], ProbedModel]
CONFIG = InstructionConfig(prompts=12, max_tokens=8)


def test_prompts_are_about_members_and_entities_and_the_same_again(probed: Make) -> None:
    model = probed(lambda ids: 0)
    records = Records.read(model.data.tables_folder)
    prompts = make_prompts(model.compiler, records, CONFIG)
    assert [prompt.text for prompt in prompts] == [
        prompt.text for prompt in make_prompts(model.compiler, records, CONFIG)
    ]
    assert len({prompt.text for prompt in prompts}) == 12
    for prompt in prompts:
        assert "Member:\nage 2" in prompt.text
        assert "Movie:\n" in prompt.text
        assert all(instruction.text in prompt.text for instruction in prompt.instructions)


def test_figures_by_prompt_and_instruction() -> None:
    upper = Instruction(kind="upper_case", text="", holds=str.isupper)
    short = Instruction(kind="most_words", text="", holds=lambda answer: len(answer.split()) <= 2)
    prompts = [
        InstructionPrompt(text="", instructions=instructions) for instructions in ([upper, short], [upper], [short])
    ]
    points = score_answers(prompts, ["YES", "no", "Sure:\nyes it is"])
    figures = {point.series: point.value.value for point in points if point.figure == "followed"}
    assert figures == pytest.approx(
        {
            "prompts, strict": 1 / 3,
            "instructions, strict": 2 / 4,
            "prompts, loose": 2 / 3,  # without its last line, the third answer is short
            "instructions, loose": 3 / 4,
        }
    )
    kinds = {point.series: point.value.value for point in points if point.figure != "followed"}
    assert kinds == {"upper_case": 0.5, "most_words": 0.5}


def test_answers_are_generated_and_empty_ones_follow_nothing(probed: Make) -> None:
    model = probed(lambda ids: 0)
    silent = probed(lambda ids: model.compiler.tokenizer.end)
    points = asyncio.run(measure_instructions(silent, CONFIG))
    assert {point.value.value for point in points} == {0.0}
    letter = model.compiler.tokenizer.encode("a")[-1]
    points = asyncio.run(measure_instructions(probed(lambda ids: letter), CONFIG))
    assert max(point.value.value or 0.0 for point in points) == 1.0  # one word is at most N words

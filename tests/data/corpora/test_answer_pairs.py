"""Pairs that a served model writes: the rules, the endpoint, and runs that are continued."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from brew_data.corpora.answer_pairs import AnswerConfig, ChatModel, Judge, ModelJudge, RuleJudge, make_pairs
from brew_data.corpora.answer_rules import Instruction, score_answer
from brew_data.corpora.preference_file import read_preferences
from brew_data.corpora.task_instructions import task_instructions
from brew_data.prompts.compiler import Entity, PastInteraction, PromptCompiler
from brew_data.records import MemberHistory
from brew_platform.errors import BrewError, UserError

CONFIG = AnswerConfig(url="http://model/v1/", model="m", answers=3, concurrency=2, retries=2, retry_seconds=0.0)
RULES = Instruction(id="a", prompt="Apply?", labels=("like", "like strongly", "skip"), label="like", most_words=4)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("like, it fits", 1.0),
        ("Like it.", 1.0),
        ("like strongly", 0.75),  # another label
        ("likely", 0.5),  # no label
        ("skip, because it is far away", 0.5),  # another label, and too long
        ("like это подходит точно", 0.75),  # another script
        (" \n", 0.0),
    ],
)
def test_the_score_is_the_share_of_rules(answer: str, score: float) -> None:
    assert score_answer(RULES, answer) == score


def test_a_pattern_is_a_rule() -> None:
    instruction = Instruction(id="a", prompt="Write JSON.", pattern=r"\{.*\}")
    assert [score_answer(instruction, answer) for answer in ('{"a":\n1}', "no")] == [1.0, 0.5]


class Endpoint:
    """Answers `skip` with seed 0, and else `like`; fails before that as often as `faults` says."""

    def __init__(self, faults: list[Any] | None = None) -> None:
        self.faults = list(faults or [])
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        fault = self.faults.pop(0) if self.faults else 200
        if isinstance(fault, Exception):
            raise fault
        if fault != 200:
            return httpx.Response(fault, text="fault")
        assert str(request.url) == "http://model/v1/chat/completions"
        body = json.loads(request.content)
        self.bodies.append(body)
        content = "skip" if body["seed"] == 0 else "like"
        return httpx.Response(200, json={"choices": [{"message": {"role": "assistant", "content": content}}]})

    async def pairs(self, instructions: list[Instruction], out: Path, judge: Judge | None = None) -> int:
        async with httpx.AsyncClient(transport=httpx.MockTransport(self)) as client:
            return await make_pairs(instructions, ChatModel(CONFIG, client), judge or RuleJudge(), out, CONFIG)


def instructions(count: int, **changes: Any) -> list[Instruction]:
    return [Instruction(**vars(RULES) | {"id": f"{i}", "instruction": "Be short."} | changes) for i in range(count)]


async def test_the_best_and_the_worst_answer_become_a_pair(tmp_path: Path) -> None:
    endpoint = Endpoint()
    out = tmp_path / "pairs.jsonl"
    assert await endpoint.pairs(instructions(5), out) == 5
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == list("01234")
    assert (rows[0]["score_chosen"], rows[0]["score_rejected"]) == (1.0, 0.75)
    [first, *_] = read_preferences(out)
    assert (first.prompt, first.chosen, first.rejected, first.instruction) == ("Apply?", "like", "skip", "Be short.")
    assert len(endpoint.bodies) == 5 * CONFIG.answers
    assert endpoint.bodies[0]["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Apply?"},
    ]
    assert not (tmp_path / "pairs.jsonl.partial").exists()


async def test_answers_of_equal_quality_are_no_pair(tmp_path: Path) -> None:
    assert await Endpoint().pairs(instructions(2, labels=(), label=None), tmp_path / "pairs.jsonl") == 0


async def test_a_model_can_be_the_judge(tmp_path: Path) -> None:
    def rate(request: httpx.Request) -> httpx.Response:
        text = json.loads(request.content)["messages"][0]["content"]
        grade = "9/10" if "Answer:\nskip" in text else "I cannot say."
        return httpx.Response(200, json={"choices": [{"message": {"content": grade}}]})

    async with httpx.AsyncClient(transport=httpx.MockTransport(rate)) as client:
        judge = ModelJudge(ChatModel(CONFIG, client))
        assert await Endpoint().pairs(instructions(1), tmp_path / "pairs.jsonl", judge) == 1
    [pair] = read_preferences(tmp_path / "pairs.jsonl")
    assert (pair.chosen, pair.rejected) == ("skip", "like")


@pytest.mark.parametrize("fault", [503, 429, httpx.ConnectError("refused"), httpx.ReadTimeout("late")])
async def test_a_request_is_sent_again(fault: Any, tmp_path: Path) -> None:
    assert await Endpoint([fault]).pairs(instructions(1), tmp_path / "pairs.jsonl") == 1


@pytest.mark.parametrize(
    ("faults", "error", "message"),
    [
        ([400], UserError, "refuses the request with status 400: fault"),
        ([503] * 99, BrewError, r"does not answer after 2 retries \(status 503\)"),
    ],
)
async def test_faults_end_the_run(faults: list[int], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        await Endpoint(faults).pairs(instructions(1), tmp_path / "pairs.jsonl")
    assert not (tmp_path / "pairs.jsonl").exists()


async def test_a_run_continues_after_the_last_whole_line(tmp_path: Path) -> None:
    out, partial = tmp_path / "pairs.jsonl", tmp_path / "pairs.jsonl.partial"
    await Endpoint().pairs(instructions(4), tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    partial.write_text("".join(lines[:2]) + lines[2][:20])
    endpoint = Endpoint()
    assert await endpoint.pairs(instructions(4), out) == 4
    assert len(endpoint.bodies) == 2 * CONFIG.answers
    assert out.read_text() == (tmp_path / "whole.jsonl").read_text()


def test_instructions_show_the_history_and_the_question(compiler: PromptCompiler) -> None:
    history = [
        PastInteraction(
            entity=Entity(entity_type="job", fields={"title": "welder", "industry": "steel"}),
            surface="jobs",
            action=action,
            timestamp=time,
        )
        for time, action in enumerate(("apply", "skip", "apply"))
    ]
    member = MemberHistory("m", {"title": "nurse", "industry": "health"}, [7, 8, 9], history)
    found = list(task_instructions([member], compiler, per_member=3))
    assert len(found) == 3
    assert sorted(text.id.split("/")[1] for text in found) == ["7", "8", "9"]
    for text in found:
        place = int(text.id.split("/")[1]) - 7
        assert text.prompt.count("welder") == place + 1  # strictly earlier ones, and the question
        assert text.label in text.labels
        assert "nurse" in text.profile
        assert "<|" not in text.prompt
        assert f"Begin the answer with one of: {', '.join(text.labels)}." in text.prompt
    assert len({text.label for text in found}) == 2

"""Pairs that a served model writes: the rules, the endpoint, the file of answers, and runs that are continued."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from brew_data.corpora.answer_file import AnswerFile
from brew_data.corpora.answer_pairs import AnswerConfig, ModelJudge, RankedAnswers, RuleJudge, rank_answers, write_pairs
from brew_data.corpora.answer_rules import Instruction, score_answer
from brew_data.corpora.chat_model import ChatModel, EndpointConfig, Reply
from brew_data.corpora.preference_file import Preference, read_preferences
from brew_data.corpora.preferences import compile_preference
from brew_data.corpora.task_instructions import ANSWER_TOKENS, task_instructions
from brew_data.prompts.compiler import Entity, PastInteraction, PromptCompiler, PromptFormat
from brew_data.records import MemberHistory
from brew_platform.errors import BrewError, ConfigError, DataError, UserError

CONFIG = AnswerConfig(url="http://model/v1/", model="m", answers=3, concurrency=6, retries=2, retry_seconds=0.0)
RULES = Instruction(id="a", prompt="Apply?", labels=("like", "like strongly", "skip"), label="like", most_words=4)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("like, it fits", 1.0),
        ("Like it.", 1.0),
        ("like strongly", 0.8),  # another label
        ("likely", 0.6),  # no label
        ("skip, because it is far away", 0.6),  # another label, and too long
        ("like это подходит точно", 0.8),  # another script
        (" \n", 0.0),
    ],
)
def test_the_score_is_the_share_of_rules(answer: str, score: float) -> None:
    assert score_answer(RULES, answer) == score
    assert score_answer(RULES, answer, is_whole=False) == pytest.approx(max(0.0, score - 0.2))


def test_a_pattern_is_a_rule() -> None:
    instruction = Instruction(id="a", prompt="Write JSON.", pattern=r"\{.*\}")
    assert [score_answer(instruction, answer) for answer in ('{"a":\n1}', "no")] == [1.0, pytest.approx(2 / 3)]


class Endpoint:
    """Answers `skip` with seed 0, and else `like`; fails before that as `faults` says."""

    def __init__(self, faults: list[Any] | None = None) -> None:
        self.faults = list(faults or [])
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[httpx.Headers] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        fault = self.faults.pop(0) if self.faults else 200
        if isinstance(fault, Exception):
            raise fault
        if isinstance(fault, httpx.Response):
            return fault
        if fault != 200:
            return httpx.Response(fault, text="fault", headers={"retry-after": "0"})
        assert str(request.url) == "http://model/v1/chat/completions"
        body = json.loads(request.content)
        self.bodies.append(body)
        self.headers.append(request.headers)
        return completion("skip" if body["seed"] == 0 else "like")

    @contextmanager
    def open(self, out: Path, key: str | None = None) -> Iterator[tuple[ChatModel, AnswerFile]]:
        client = httpx.AsyncClient(transport=httpx.MockTransport(self))
        with AnswerFile.open(out, {"model": "m"}) as kept:
            yield ChatModel(CONFIG, client, key=key), kept

    async def ranked(self, instructions: list[Instruction], out: Path) -> list[RankedAnswers]:
        with self.open(out) as (model, kept):
            return await rank_answers(instructions, model, RuleJudge(), kept, CONFIG)


def completion(text: str, finish: str = "stop") -> httpx.Response:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return httpx.Response(200, content=json.dumps({"choices": [choice]}))


def instructions(count: int, **changes: Any) -> list[Instruction]:
    return [Instruction(**vars(RULES) | {"id": f"{i}", "instruction": "Be short."} | changes) for i in range(count)]


async def test_the_best_and_the_worst_answer_become_a_pair(tmp_path: Path) -> None:
    endpoint = Endpoint()
    ranked = await endpoint.ranked(instructions(5), tmp_path / "answers.jsonl")
    rows = [answers.pair(0.1) for answers in ranked]
    assert [row and row["id"] for row in rows] == list("01234")
    write_pairs([row for row in rows if row], out := tmp_path / "pairs.jsonl")
    row = json.loads(out.read_text().splitlines()[0])
    assert (row["score_chosen"], row["score_rejected"]) == (1.0, 0.8)
    [first, *_] = read_preferences(out)
    assert (first.prompt, first.chosen, first.rejected, first.instruction) == ("Apply?", "like", "skip", "Be short.")
    assert len(endpoint.bodies) == 5 * CONFIG.answers
    assert endpoint.bodies[0] == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Apply?"}],
        "seed": 0,
        "max_tokens": 128,
        "temperature": 1.0,
    }


@pytest.mark.parametrize(
    ("answers", "least_margin", "is_pair"),
    [
        ([(0.5, "a"), (0.4, "b")], 0.2, False),
        ([(0.5, "a"), (0.4, "b")], 0.05, True),
        ([(0.5, "a"), (0.5, "b")], 0.0, True),
        ([(0.5, "a")], 0.0, False),
        ([], 0.0, False),
    ],
)
def test_answers_of_equal_quality_are_not_a_pair(
    answers: list[tuple[float, str]], least_margin: float, is_pair: bool
) -> None:
    assert (RankedAnswers(RULES, answers, 0).pair(least_margin) is not None) == is_pair


async def test_a_cut_answer_is_worse_than_a_whole_one(tmp_path: Path) -> None:
    faults = [completion("like it", "length"), completion("like"), completion("like")]
    [ranked] = await Endpoint(faults).ranked(instructions(1), tmp_path / "answers.jsonl")
    assert ranked.answers == [(1.0, "like"), (0.8, "like it")]
    assert ranked.cut == 1


async def test_a_model_can_be_the_judge_and_rates_nothing_twice(tmp_path: Path) -> None:
    rated: list[str] = []

    def rate(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        rated.append(body["messages"][0]["content"])
        assert (body["temperature"], body["max_tokens"]) == (0.0, 16)
        return completion("9/10" if "Answer:\nskip" in rated[-1] else "I cannot say.")

    for _ in range(2):
        with Endpoint().open(tmp_path / "answers.jsonl") as (model, kept):
            judge = ModelJudge(ChatModel(CONFIG, httpx.AsyncClient(transport=httpx.MockTransport(rate))), kept)
            [ranked] = await rank_answers(instructions(1), model, judge, kept, CONFIG)
        assert ranked.answers == [(0.9, "skip"), (0.0, "like")]
    assert len(rated) == 2


@pytest.mark.parametrize("fault", [503, 429, httpx.ReadTimeout("late"), httpx.RemoteProtocolError("closed")])
async def test_a_request_is_sent_again(fault: Any, tmp_path: Path) -> None:
    endpoint = Endpoint([fault])
    with endpoint.open(tmp_path / "answers.jsonl") as (model, kept):
        [ranked] = await rank_answers(instructions(1), model, RuleJudge(), kept, CONFIG)
    assert ranked.pair(0.1)
    assert (model.requests, model.retries) == (CONFIG.answers + 1, 1)


@pytest.mark.parametrize(
    ("faults", "error", "message"),
    [
        ([400], UserError, r"refuses the request with status 400: fault.*most_tokens leaves more"),
        ([401], UserError, "status 401.*Set the key of the endpoint"),
        ([404], UserError, "status 404.*Correct url, which ends with /v1, or model, which is 'm'"),
        ([httpx.Response(307, headers={"location": "http://b/v1"})], UserError, "Set url to the address that it point"),
        ([httpx.ConnectError("refused")], UserError, r"cannot be reached \(refused\). Start the service"),
        ([503] * 99, BrewError, r"does not answer after 2 retries \(status 503\)"),
        ([200, *[httpx.ConnectError("refused")] * 99], BrewError, r"does not answer after 2 retries \(ConnectError"),
        ([httpx.Response(200, json={"choices": []})], BrewError, "not a chat completion"),
        ([httpx.Response(200, text="<html>")], BrewError, "not a chat completion"),
    ],
)
async def test_faults_end_the_run(faults: list[Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        await Endpoint(faults).ranked(instructions(1), tmp_path / "answers.jsonl")


async def test_the_key_is_sent_and_is_in_no_file_or_message(tmp_path: Path) -> None:
    endpoint = Endpoint([200, 401])
    with pytest.raises(UserError) as error, endpoint.open(tmp_path / "answers.jsonl", key="secret") as (model, kept):
        await rank_answers(instructions(1), model, RuleJudge(), kept, CONFIG)
    assert endpoint.headers[0]["authorization"] == "Bearer secret"
    assert "secret" not in f"{error.value}{(tmp_path / 'answers.jsonl').read_text()}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("model/v1", "must be an address such as"),
        ("ftp://model/v1", "must be an address such as"),
        ("http://model:99999/v1", "must be an address such as"),
        ("http://[model/v1", "must be an address such as"),
        ("http://ana:secret@model/v1", "url has more than an address"),
        ("http://model/v1?key=secret", "url has more than an address"),
    ],
)
def test_an_url_is_an_address_without_secrets(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        EndpointConfig(url=url, model="m")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("answered", range(0, 12, 3))
async def test_a_run_continues_and_requests_no_answer_twice(answered: int, tmp_path: Path) -> None:
    whole = await Endpoint().ranked(instructions(4), tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    out = tmp_path / "answers.jsonl"
    out.write_bytes(b"".join(lines[: answered + 1]) + lines[answered + 1][:20])
    for requests in (12 - answered, 0):
        endpoint = Endpoint()
        assert await endpoint.ranked(instructions(4), out) == whole
        assert len(endpoint.bodies) == requests
    assert sorted(out.read_bytes().splitlines()) == sorted((tmp_path / "whole.jsonl").read_bytes().splitlines())


async def test_half_a_character_is_replaced(tmp_path: Path) -> None:
    endpoint = Endpoint([completion("like \ud83d")] * 3)
    [ranked] = await endpoint.ranked(instructions(1), tmp_path / "answers.jsonl")
    assert ranked.answers == [(1.0, "like ?")]


def test_a_file_has_answers_of_one_run_at_a_time_and_of_equal_settings(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerFile.open(path, {"model": "a"}) as kept:
        kept.add_answer("1", 0, Reply("like", True))
        with pytest.raises(UserError, match="another run is writing"), AnswerFile.open(path, {"model": "a"}):
            pass
    with (
        pytest.raises(UserError, match=r"answers of other settings \(model 'a'\)"),
        AnswerFile.open(path, {"model": "b"}),
    ):
        pass
    with AnswerFile.open(path, {"model": "a"}) as kept:
        assert kept.answer("1", 0) == Reply("like", True)
        assert kept.answer("1", 1) is None


@pytest.mark.parametrize("line", ['{"id": "1"}', "[]", "{", '{"id": "1", "seed": "x", "score": 1}'])
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerFile.open(path, {}):
        pass
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(DataError, match="line 2 is damaged"), AnswerFile.open(path, {}):
        pass
    path.write_text('{"prompt": "of a file of pairs"}\n')
    with pytest.raises(DataError, match="not a file of answers"), AnswerFile.open(path, {}):
        pass


def members(profile: dict[str, str]) -> list[MemberHistory]:
    history = [
        PastInteraction(
            entity=Entity(entity_type="job", fields={"title": "welder", "industry": "steel"}),
            surface="jobs",
            action=action,
            timestamp=time,
        )
        for time, action in enumerate(("apply", "skip", "apply"))
    ]
    return [MemberHistory("m", profile, [7, 8, 9], history)]


def test_instructions_show_the_history_and_the_question(compiler: PromptCompiler) -> None:
    compiler = PromptCompiler(compiler.suite, compiler.tokenizer, PromptFormat(context_length=2048, head_tokens=128))
    found = list(task_instructions(members({"title": "nurse", "industry": "health"}), compiler, per_member=3))
    assert len(found) == 3
    assert sorted(text.id.split("/")[1] for text in found) == ["7", "8", "9"]
    for text in found:
        place = int(text.id.split("/")[1]) - 7
        assert text.prompt.count("welder") == place + 1  # strictly earlier ones, and the question
        assert text.label in text.labels
        assert "nurse" in text.profile
        assert "<|" not in text.prompt + text.profile + text.instruction
        assert f"Begin the answer with one of: {', '.join(text.labels)}." in text.prompt
    assert len({text.label for text in found}) == 2


def test_pairs_of_instructions_fit_a_bin(compiler: PromptCompiler) -> None:
    compiler = PromptCompiler(compiler.suite, compiler.tokenizer, PromptFormat(context_length=1024, head_tokens=128))
    history = members({"title": "nurse " * 500})[0]
    past = [replace(history.history[0], timestamp=time) for time in range(50)]
    [text] = task_instructions([MemberHistory("m", history.profile, list(range(50)), past)], compiler)
    preference = Preference(
        prompt=text.prompt, profile=text.profile, instruction=text.instruction, chosen="a", rejected="b", origin=""
    )
    tokens = len(compile_preference(preference, compiler.tokenizer).prompt)
    assert 2 * (tokens + ANSWER_TOKENS) <= 1024

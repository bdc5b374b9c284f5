"""Explanations: changes are differences of scores of the model, sorted, and written as text, JSON and pages."""

import asyncio
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.entity import Entity
from brew_eval.explanation import Change, Explanation, explain, log_odds, sort_changes
from brew_eval.prompt_variants import LeftOut, Part, PromptVariants
from brew_eval.report.explanation import change_table, explanation_markdown, explanation_notes, explanation_page
from brew_eval.report.files import write_explanation
from brew_platform.errors import UserError
from brew_serve.engines.base import Shared
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.logprobs import InvalidOutput
from brew_serve.engines.torch import TorchEngine
from brew_serve.ranking.scoring import Scored, Scorer

from ..cluster.tiny_version import write_tiny_version
from .explained import BUNDLE, make_row, past

HISTORY = [past(0), past(1, surface="mail", action="opened"), past(2, action="viewed")]
HOSTILE = "<script>alert(1)</script>|\"'&`[x](http://y)\x00\x1b[1m"


@pytest.fixture(scope="module")
def compiler() -> PromptCompiler:
    return BUNDLE.compiler()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> TorchEngine:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_version(BUNDLE, folder)
    return TorchEngine(folder)


@pytest.fixture
def explanation(engine: TorchEngine, compiler: PromptCompiler) -> Explanation:
    variants = PromptVariants(compiler, make_row(HISTORY))
    origin = {"model": "registry:7", "task": "buy", "history": "streaming"}
    return asyncio.run(explain(Scorer(engine, compiler), variants, outcome="viewed", origin=origin, warnings=["w"]))


def test_changes_are_those_of_the_scores(
    engine: TorchEngine, compiler: PromptCompiler, explanation: Explanation
) -> None:
    row = make_row(HISTORY)

    def score(**changes: object) -> Scored:
        changed = replace(row, **changes)
        prefix = compiler.prefix(row.task, changed.profile, changed.history, before=row.before)
        question, _ = compiler.question(row.task, changed.profile, changed.candidate)
        return asyncio.run(Scorer(engine, compiler).score_prompt(row.task, prefix.ids, question))

    whole = score()
    assert (explanation.score, explanation.probabilities) == (whole.score, whole.probabilities)
    assert explanation.log_odds == pytest.approx(math.log(whole.score / (1 - whole.score)))
    assert explanation.labels == {"bought": "bought", "viewed": "viewed only"}
    found = {(change.kind, change.name): change for change in explanation.changes}
    others = {
        ("interaction", "turn 2"): score(history=[HISTORY[0], HISTORY[2]]),
        ("profile", "city"): score(profile={"job": "nurse"}),
        ("entity", "brand"): score(candidate=Entity(entity_type="product", fields={"title": "lamp"})),
    }
    for key, other in others.items():
        change = found[key]
        assert (change.score, change.probabilities) == (other.score, other.probabilities)
        assert change.change == other.score - whole.score != 0
        odds = [math.log(scored.score / (1 - scored.score)) for scored in (whole, other)]
        assert change.log_odds_change == pytest.approx(odds[1] - odds[0])
    assert found["interaction", "turn 3"].time == "1970-01-01T00:00:02+00:00"
    assert len(found) == 7
    assert explanation.left_out == [LeftOut("entity", "sku", "no template of the suite shows it")]
    sizes = [abs(change.change) for change in explanation.changes]
    assert sizes == sorted(sizes, reverse=True)


@settings(max_examples=20)
@given(st.sets(st.integers(0, 30), max_size=8))
def test_an_unchanged_prompt_has_no_difference(engine: TorchEngine, compiler: PromptCompiler, times: set[int]) -> None:
    class Unchanged(PromptVariants):
        """Removes parts that the prompt does not show, beside the others."""

        def parts(self) -> list[Part]:
            return [Part("profile", "nothing"), Part("entity", "nothing"), *super().parts()]

        def leave_one_out(self) -> tuple:
            return {part: self.without(part) for part in self.parts()}, []

        def text(self, part: Part) -> str:
            return ""

    variants = Unchanged(compiler, make_row([past(time) for time in sorted(times)]))
    explained = asyncio.run(explain(Scorer(engine, compiler), variants, outcome=None, origin={}))
    for change in explained.changes:
        if change.name in ("nothing", "sku"):
            assert (change.change, change.log_odds_change) == (0.0, 0.0)
    assert [change.name for change in explained.changes].count("nothing") == 2
    assert explained.changes[-1].change == 0.0


class FaultyEngine(TorchEngine):
    """Answers NaN for prompts whose text has, or lacks, a word."""

    word, has_word = "", True

    async def next_token_logprobs(
        self, prompt: Sequence[int], token_ids: Sequence[int], shared: Shared | None = None
    ) -> list[float]:
        if (self.word in BUNDLE.tokenizer.decode(prompt)) == self.has_word:
            return [math.nan] * len(token_ids)
        return await super().next_token_logprobs(prompt, token_ids, shared)


def test_scores_that_are_not_finite_are_reported(compiler: PromptCompiler, tmp_path: Path) -> None:
    write_tiny_version(BUNDLE, tmp_path / "tiny")
    engine = FaultyEngine(tmp_path / "tiny")
    scorer, variants = Scorer(engine, compiler), PromptVariants(compiler, make_row(HISTORY))
    engine.word, engine.has_word = "Rome", False
    found = asyncio.run(explain(scorer, variants, outcome=None, origin={}))
    [fault] = [part for part in found.left_out if part.name == "city"]
    assert "the model computed nan where a log-probability is required" in fault.reason
    assert len(found.changes) == 6
    engine.has_word = True
    with pytest.raises(InvalidOutput, match="the model computed nan"):
        asyncio.run(explain(scorer, variants, outcome=None, origin={}))


def test_a_prompt_that_the_engine_cannot_read_is_refused(compiler: PromptCompiler, tmp_path: Path) -> None:
    write_tiny_version(BUNDLE, tmp_path / "tiny")
    engine = TorchEngine(tmp_path / "tiny", EngineConfig(kind="torch", max_model_len=32))
    variants = PromptVariants(compiler, make_row(HISTORY))
    with pytest.raises(UserError, match="this model reads 31 before the next token"):
        asyncio.run(explain(Scorer(engine, compiler), variants, outcome=None, origin={}))


def test_progress_counts_all_prompts(engine: TorchEngine, compiler: PromptCompiler) -> None:
    seen: list[tuple[int, int]] = []
    variants = PromptVariants(compiler, make_row(HISTORY))
    asyncio.run(
        explain(
            Scorer(engine, compiler), variants, outcome=None, origin={}, in_flight=2,
            on_progress=lambda done, total: seen.append((done, total)),
        )
    )  # fmt: skip
    assert seen == [(done, 8) for done in range(1, 9)]


def change(name: str, size: float, odds: float | None) -> Change:
    part = {"kind": "entity", "name": name, "text": HOSTILE, "time": None, "probabilities": {}, "score": 0.5}
    return Change(**part, change=size, log_odds_change=odds)


def test_changes_are_sorted_by_their_size() -> None:
    changes = [change("a", 0.1, -3.0), change("b", -0.2, 1.0), change("c", 0.1, 3.0), change("d", -0.1, None)]
    assert [found.name for found in sort_changes(changes)] == ["b", "d", "a", "c"]
    assert [found.name for found in sort_changes(changes, "log_odds")] == ["d", "a", "c", "b"]


def test_log_odds_of_a_certain_answer_are_not_known(compiler: PromptCompiler) -> None:
    task = compiler.suite.task("buy")
    assert log_odds(Scored(score=1.0, probabilities={"bought": 1.0, "viewed": 0.0}), task) is None
    assert log_odds(Scored(score=0.0, probabilities={"bought": 0.0, "viewed": 1.0}), task) is None
    tiny = Scored(score=1e-20, probabilities={"bought": 1e-20, "viewed": 1.0})
    assert log_odds(tiny, task) == pytest.approx(math.log(1e-20))


def test_an_explanation_is_written_as_json_markdown_and_html(explanation: Explanation, tmp_path: Path) -> None:
    paths = write_explanation(explanation, tmp_path / "new/e.json")
    assert [path.name for path in paths] == ["e.json", "e.md", "e.html"]
    document = json.loads(paths[0].read_text())
    assert document["format_version"] == 1
    assert document["score"] == explanation.score
    assert [found["name"] for found in document["changes"]] == [found.name for found in explanation.changes]
    for text in ("registry:7", "Change of P(positive) without a part", "candidate, brand", "Notes", "<|user|>"):
        assert text.replace("<", "&lt;").replace(">", "&gt;") in paths[2].read_text()
    assert "candidate, sku: no template of the suite shows it" in paths[1].read_text()
    with pytest.raises(UserError, match=r"does not end in \.json"):
        write_explanation(explanation, tmp_path / "e")


def test_pages_of_hostile_text_are_escaped(explanation: Explanation) -> None:
    hostile = replace(
        explanation,
        changes=[change(HOSTILE, 0.25, None), change("b", -0.125, 1.0)],
        prompt=[replace(explanation.prompt[0], text=HOSTILE)],
        origin={"model": HOSTILE},
        warnings=[HOSTILE],
    )
    page = explanation_page(hostile)
    assert "<script" not in page
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", page)
    [svg] = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    bars = [part for part in ElementTree.fromstring(svg).iter() if part.tag.endswith("rect")]
    width = [float(bar.attrib["width"]) for bar in bars]
    assert width[0] == pytest.approx(2 * width[1], abs=0.2)
    assert float(bars[1].attrib["x"]) + width[1] == pytest.approx(float(bars[0].attrib["x"]), abs=0.2)  # both from 0
    assert "<script" not in explanation_markdown(hostile)
    assert explanation_notes(hostile)[0] == HOSTILE


def test_an_explanation_without_changes_has_no_plot(explanation: Explanation) -> None:
    page = explanation_page(replace(explanation, changes=[]))
    assert "<svg" not in page
    assert change_table([]).rows == []

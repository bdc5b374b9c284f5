"""Labels of several words; if one begins another, every answer of the task ends with `<|end|>`."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.prompts.compiler import Entity, PastInteraction, PromptCompiler, PromptFormat
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import Action, Outcome, Surface, TaskSpec
from brew_data.prompts.templates import RecordTemplate
from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.errors import ConfigError, UserError

FORMAT = PromptFormat(context_length=512)
POST = Entity(entity_type="post", fields={"topic": "nurse"})


def make_suite(labels: list[str], **changes: Any) -> TaskSuite:
    actions = [Action(name=f"a{i}", label=label) for i, label in enumerate(labels)]
    task: dict[str, Any] = {
        "name": "react",
        "surface": "feed",
        "instruction": "Answer with one of: {{ labels }}.",
        "history": HistoryPolicy(surfaces=["feed"]),
        "positive": ["a0"],
    }
    return TaskSuite(
        name="labels",
        profile=RecordTemplate(fields=["title"], phrases=["{{ title }}"]),
        entities={"post": RecordTemplate(fields=["topic"], phrases=["{{ topic }}"])},
        surfaces=[Surface(name="feed", entity_type="post", question=["post"], actions=actions)],
        tasks=[TaskSpec(**task | changes)],
    )


def past(action: str, time: int = 0) -> PastInteraction:
    return PastInteraction(entity=POST, surface="feed", action=action, timestamp=time)


def test_labels_that_do_not_begin_another_have_no_end_token(tokenizer: Tokenizer) -> None:
    compiler = PromptCompiler(make_suite(["like it", "not now"]), tokenizer, FORMAT)
    task = compiler.suite.task("react")
    assert compiler.labels(task) == {"a0": tokenizer.encode("like it"), "a1": tokenizer.encode("not now")}
    [document] = compiler.documents({}, [past("a0"), past("a1", 1)])
    assert tokenizer.decode(document.ids) == (
        "<|system|>Answer with one of: like it, not now.<|member|><|user|>post\nnurse\n<|assistant|>like it"
        "<|user|>post\nnurse\n<|assistant|>not now<|end|>"
    )
    assert document.roles[-1] == 0


def test_if_a_label_begins_another_every_answer_ends_and_its_end_is_trained(tokenizer: Tokenizer) -> None:
    compiler = PromptCompiler(make_suite(["like", "like strongly", "skip"]), tokenizer, FORMAT)
    task = compiler.suite.task("react")
    answers = {
        f"a{i}": (*tokenizer.encode(label), tokenizer.end) for i, label in enumerate(["like", "like strongly", "skip"])
    }
    assert compiler.labels(task) == answers
    [document] = compiler.documents({}, [past("a0"), past("a1", 1)])
    assert tokenizer.decode(document.ids) == (
        "<|system|>Answer with one of: like, like strongly, skip.<|member|>"
        "<|user|>post\nnurse\n<|assistant|>like<|end|><|user|>post\nnurse\n<|assistant|>like strongly<|end|>"
    )
    trained = tuple(id_ for id_, role in zip(document.ids, document.roles, strict=True) if role)
    assert trained == answers["a0"] + answers["a1"]
    # Serving builds the beginning of the document.
    prompt = compiler.prefix(task, {}, [past("a0")]).ids + compiler.question(task, {}, POST)[0]
    assert document.ids[: len(prompt)] == prompt


def test_a_derived_task_ends_its_own_answers_and_not_those_of_its_surface(tokenizer: Tokenizer) -> None:
    outcomes = [
        Outcome(name="yes", label="yes", actions=["a0"]),
        Outcome(name="maybe", label="yes but later", actions=["a1"]),
    ]
    suite = make_suite(["like", "skip"], outcomes=outcomes, positive=["yes"])
    compiler = PromptCompiler(suite, tokenizer, FORMAT)
    first, last = compiler.documents({}, [past("a0"), past("a1", 1)])
    assert tokenizer.decode(first.ids).endswith("<|user|>post\nnurse\n<|assistant|>yes<|end|>")
    assert tokenizer.decode(last.ids).endswith(
        "<|assistant|>like<|user|>post\nnurse\n<|assistant|>yes but later<|end|>"
    )
    assert first.roles[-1] == last.roles[-1] == 1
    assert sum(last.roles) == len(tokenizer.encode("yes but later")) + 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text("ab ", min_size=1, max_size=5), min_size=2, max_size=6))
def test_no_answer_begins_another(tokenizer: Tokenizer, labels: list[str]) -> None:
    try:
        suite = make_suite(labels)
    except ConfigError:  # a blank or repeated label
        assert len({label.strip() for label in labels}) < len(labels) or not all(label.strip() for label in labels)
        return
    answers = PromptCompiler(suite, tokenizer, FORMAT).labels(suite.task("react"))
    for name, ids in answers.items():
        assert all(other == name or other_ids[: len(ids)] != ids for other, other_ids in answers.items())


@pytest.mark.parametrize("labels", [["like", " "], ["like", "like "], ["like", ""]])
def test_blank_and_equal_labels_are_refused(labels: list[str]) -> None:
    with pytest.raises(ConfigError, match="different names and labels, none of them blank"):
        make_suite(labels)


def test_labels_of_the_same_token_ids_are_refused(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda text: encode(text.lower()))  # as a normalizer of a base model does
    with pytest.raises(UserError, match="labels of outcomes 'a0' and 'a1' have the same token ids"):
        PromptCompiler(make_suite(["like", "Like"]), tokenizer, FORMAT)

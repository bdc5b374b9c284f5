"""Task suites: several tasks on one surface, derived labels, refusals, and the stored format."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.prompts.compiler import Entity, PastInteraction, PromptCompiler, PromptFormat
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import TaskSuite, load_suite
from brew_data.prompts.tasks import Action, Outcome, Surface, TaskSpec
from brew_data.prompts.templates import RecordTemplate
from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.errors import ConfigError, UserError

POLICY = HistoryPolicy(surfaces=["feed"], max_interactions=12)
ACTIONS = ["like", "comment", "share", "skip"]
FEED = Surface(
    name="feed", entity_type="post", question=["post"], actions=[Action(name=name, label=name) for name in ACTIONS]
)
ENGAGE = [
    Outcome(name="engage", label="yes", actions=["like", "comment", "share"]),
    Outcome(name="none", label="no", actions=["skip"]),
]


def make_task(name: str, **changes: Any) -> TaskSpec:
    fields = {"surface": "feed", "instruction": f"Predict {name}.", "history": POLICY, "positive": ["like"]}
    return TaskSpec(name=name, **fields | changes)


def make_suite(*tasks: TaskSpec) -> TaskSuite:
    return TaskSuite(
        name="feed_suite",
        profile=RecordTemplate(fields=["title"], phrases=["{{ title }}"]),
        entities={"post": RecordTemplate(fields=["topic"], phrases=["{{ topic }}"])},
        surfaces=[FEED],
        tasks=list(tasks),
    )


@pytest.fixture
def feed_suite() -> TaskSuite:
    """One task that follows the surface, one that derives its outcomes and has its own question."""
    engage = make_task(
        "engage", question=["engage with post"], outcomes=ENGAGE, positive=["engage"], examples_per_member=3
    )
    return make_suite(make_task("act"), engage)


def interactions(count: int) -> list[PastInteraction]:
    # Two interactions share each timestamp.
    return [
        PastInteraction(
            entity=Entity(entity_type="post", fields={"topic": f"nurse {i}"}),
            surface="feed",
            action=ACTIONS[i % len(ACTIONS)],
            timestamp=i // 2,
        )
        for i in range(count)
    ]


def test_tasks_on_one_surface_derive_their_labels_from_its_actions(feed_suite: TaskSuite) -> None:
    act, engage = feed_suite.tasks_of("feed")
    assert [feed_suite.outcome(act, action).label for action in ACTIONS] == ACTIONS
    assert [feed_suite.outcome(engage, action).label for action in ACTIONS] == ["yes", "yes", "yes", "no"]
    assert feed_suite.positive_actions(act) == ["like"]
    assert feed_suite.positive_actions(engage) == ["like", "comment", "share"]
    assert act.follows_surface
    assert not engage.follows_surface
    assert feed_suite.tasks_of("jobs") == []


def test_history_is_rendered_by_the_surface_and_the_candidate_by_the_task(
    feed_suite: TaskSuite, tokenizer: Tokenizer
) -> None:
    compiler = PromptCompiler(feed_suite, tokenizer, PromptFormat(context_length=512))
    [past] = interactions(1)
    task = feed_suite.task("engage")
    prompt = compiler.prefix(task, {"title": "nurse"}, [past]).ids + compiler.question(task, {}, past.entity)[0]
    assert tokenizer.decode(prompt) == (
        "<|system|>Predict engage.<|member|>nurse\n<|user|>post\nnurse 0\n<|assistant|>like"
        "<|user|>engage with post\nnurse 0\n<|assistant|>"
    )


def test_a_derived_task_trains_on_the_prompts_that_serving_builds(feed_suite: TaskSuite, tokenizer: Tokenizer) -> None:
    compiler = PromptCompiler(feed_suite, tokenizer, PromptFormat(context_length=512))
    task, profile, history = feed_suite.task("engage"), {"title": "nurse"}, interactions(9)
    documents = compiler.documents(profile, history)
    examples = documents[-3:]
    for scored, document in zip(history[-3:], examples, strict=True):
        prefix = compiler.prefix(task, profile, history, before=scored.timestamp)
        prompt = prefix.ids + compiler.question(task, profile, scored.entity)[0]
        answer = tokenizer.encode("no" if scored.action == "skip" else "yes")
        assert document.ids == (*prompt, *answer, tokenizer.end)
        assert document.roles == (*[0] * len(prompt), *[1] * len(answer), 0)
    plain = PromptCompiler(make_suite(make_task("act")), tokenizer, compiler.format)
    assert documents[:-3] == plain.documents(profile, history)


def test_a_surface_that_only_derived_tasks_use_is_shown_but_not_trained(
    feed_suite: TaskSuite, tokenizer: Tokenizer
) -> None:
    held_out = replace(feed_suite.task("act"), in_training=False)
    suite = make_suite(held_out, feed_suite.task("engage"))
    documents = PromptCompiler(suite, tokenizer, PromptFormat(context_length=512)).documents({}, interactions(9))
    assert len(documents) == 3  # the examples of `engage`


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(["economic_graph", "movielens", "derived"]),
    lengths=st.lists(st.integers(0, 40), max_size=30),
    profile_words=st.integers(0, 60),
    context=st.sampled_from([256, 300, 512]),
)
def test_no_document_exceeds_the_context(
    tokenizer: Tokenizer, name: str, lengths: list[int], profile_words: int, context: int
) -> None:
    if name == "derived":
        engage = make_task("engage", outcomes=ENGAGE, positive=["engage"], examples_per_member=30)
        suite = make_suite(make_task("act"), engage)
    else:
        suite = load_suite(name)
    compiler = PromptCompiler(
        suite, tokenizer, PromptFormat(context_length=context, head_tokens=64, question_tokens=64)
    )
    history = []
    for i, length in enumerate(lengths):
        surface = suite.surfaces[i % len(suite.surfaces)]
        fields = {"title": "nurse " * length, "topic": "care " * length}
        history.append(
            PastInteraction(
                entity=Entity(entity_type=surface.entity_type, fields=fields),
                surface=surface.name,
                action=surface.actions[i % len(surface.actions)].name,
                timestamp=i,
            )
        )
    for document in compiler.documents({"title": "nurse " * profile_words, "age": "3 " * profile_words}, history):
        assert len(document.ids) == len(document.roles) <= context


NONE = Outcome(name="none", label="no", actions=["skip"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outcomes": [Outcome(name="like", label="yes", actions=["like"]), NONE]}, "comment, share .* no outcome"),
        ({"outcomes": [Outcome(name="like", label="yes", actions=ACTIONS), NONE]}, "skip belong to several outcomes"),
        ({"outcomes": [Outcome(name="like", label="yes", actions=["sing"]), NONE]}, "actions sing, which surface feed"),
        ({"outcomes": [Outcome(name="like", label="no", actions=ACTIONS[:3]), NONE]}, "different names and labels"),
        ({"outcomes": [Outcome(name="like", label="yes", actions=ACTIONS)]}, "two or more outcomes"),
        ({"positive": ["engage"]}, "positive is .*; name some, not all, of like, comment, share, skip"),
        ({"positive": []}, "name some, not all"),
        ({"positive": ACTIONS}, "name some, not all"),
        ({"surface": "jobs"}, "surfaces jobs are unknown. Add them to `surfaces`; known are feed"),
        ({"history": HistoryPolicy(surfaces=["jobs"])}, "surfaces jobs are unknown"),
        ({"examples_per_member": 0}, "examples_per_member is 0; give an integer, at least 1"),
    ],
)
def test_a_task_that_does_not_fit_its_surface_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_suite(make_task("act", **changes))


def test_repeated_names_and_missing_templates_are_refused() -> None:
    with pytest.raises(ConfigError, match="tasks act occur more than once"):
        make_suite(make_task("act"), make_task("act"))
    with pytest.raises(ConfigError, match="surfaces feed occur more than once"):
        replace(make_suite(make_task("act")), surfaces=[FEED, FEED])
    with pytest.raises(ConfigError, match="the name of one of its tasks is blank"):
        make_suite(make_task(" "))
    with pytest.raises(ConfigError, match="no template for entity type 'post'"):
        replace(make_suite(make_task("act")), entities={})
    with pytest.raises(ConfigError, match="two or more actions"):
        replace(FEED, actions=FEED.actions[:1])


def test_an_unknown_surface_or_action_is_refused_with_the_known_ones(feed_suite: TaskSuite) -> None:
    with pytest.raises(UserError, match="surface 'mars' is unknown; this model knows feed"):
        feed_suite.surface("mars")
    with pytest.raises(UserError, match="action 'sing' is unknown on surface 'feed'; known are like"):
        feed_suite.outcome(feed_suite.task("engage"), "sing")


@pytest.mark.parametrize("name", ["economic_graph", "movielens", "derived"])
def test_a_suite_survives_to_dict_and_json(name: str, feed_suite: TaskSuite) -> None:
    suite = feed_suite if name == "derived" else load_suite(name)
    assert TaskSuite.from_dict(json.loads(json.dumps(suite.to_dict()))) == suite


@pytest.mark.parametrize(
    ("version", "found"),
    [(1, "format_version 1"), (2, "format_version 2"), (4, "format_version 4"), (None, "no format_v")],
)
def test_a_suite_of_another_format_version_is_refused(feed_suite: TaskSuite, version: int | None, found: str) -> None:
    data = feed_suite.to_dict() | {"format_version": version}
    with pytest.raises(
        ConfigError, match=f"suite feed_suite has {found}.*reads format_version 3 only.*Jinja2.*hop_tokens"
    ):
        TaskSuite.from_dict(data)


@pytest.mark.parametrize("name", ["economic_graph", "movielens"])
def test_shipped_suites_load_and_survive_a_round_trip(name: str) -> None:
    suite = load_suite(name)
    assert type(suite).from_dict(suite.to_dict()) == suite


def test_a_suite_that_does_not_exist_or_has_an_unknown_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="neither a built-in suite \\(.*economic_graph, .*movielens.*\\) nor a folder"
    ):
        load_suite("nope")
    (tmp_path / "suite.yaml").write_text("name: x\nprofil: {fields: [a]}\nentities: {}\n")
    with pytest.raises(ConfigError, match="profil.*profile"):
        load_suite(tmp_path)

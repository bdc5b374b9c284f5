"""History policies: what they select, that no later interaction changes a prompt, and that turns are encoded once."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.prompts.budget import NOTHING_CUT, Cut
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import Entity, PastInteraction, Prefix, PromptCompiler, PromptFormat
from brew_data.prompts.history import HistoryPolicy, first_kept, first_possible, hop_limit
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import Action, Outcome, Surface, TaskSpec
from brew_data.prompts.templates import RecordTemplate
from brew_data.prompts.tokenizer import Tokenizer
from brew_platform.errors import ConfigError, UserError

DAY = 86_400_000_000
BOTH = ["jobs", "feed"]
FORMAT = PromptFormat(context_length=256, head_tokens=48, question_tokens=32)
PLAIN = HistoryPolicy(surfaces=BOTH)


def make_suite(**tasks: Any) -> TaskSuite:
    """Two surfaces with two actions or more, and one task on each; `tasks` replaces settings of the task on jobs."""
    record = {"phrases": ["{{ title }}", "{{ skills }}"], "fields": ["title", "skills"]}
    jobs = [Action(name=name, label=name) for name in ("apply", "save", "view", "skip")]
    feed = [Action(name=name, label=name) for name in ("like", "skip")]
    common = {"instruction": "Predict.", "history": PLAIN}
    return TaskSuite(
        name="small",
        profile=RecordTemplate(fields=["title"], phrases=["{{ title }}"]),
        entities={"job": RecordTemplate(**record), "post": RecordTemplate(**record)},
        surfaces=[
            Surface(name="jobs", entity_type="job", question=["job"], actions=jobs),
            Surface(name="feed", entity_type="post", question=["post"], actions=feed),
        ],
        tasks=[
            TaskSpec(**{"name": "job_apply", "surface": "jobs", "positive": ["apply", "save"], **common, **tasks}),
            TaskSpec(name="post_like", surface="feed", positive=["like"], **common),
        ],
    )


SUITE = make_suite()


def past(time: int, action: str = "view", title: str = "nurse", surface: str = "jobs") -> PastInteraction:
    entity = Entity(entity_type="job" if surface == "jobs" else "post", fields={"title": title})
    return PastInteraction(entity=entity, surface=surface, action=action, timestamp=time)


def job(title: str) -> Entity:
    return Entity(entity_type="job", fields={"title": title})


def compiler_with(tokenizer: Tokenizer, format: PromptFormat = FORMAT, **policy: Any) -> PromptCompiler:
    return PromptCompiler(SUITE, tokenizer, format, {"job_apply": replace(PLAIN, **policy)})


def shown(
    compiler: PromptCompiler,
    history: Sequence[PastInteraction],
    *,
    candidate: Entity | None = None,
    before: int | None = None,
) -> list[PastInteraction]:
    """The interactions of a prompt, in its order."""
    prefix = compiler.prefix(SUITE.task("job_apply"), {}, history, candidate=candidate, before=before)
    return [history[place] for place in prefix.shown]


ACTIONS = {"jobs": ["apply", "save", "view", "skip"], "feed": ["like", "skip"]}
PAST = st.sampled_from(["jobs", "feed"]).flatmap(
    lambda surface: st.builds(
        past,
        st.integers(0, 12),
        st.sampled_from(ACTIONS[surface]),
        st.sampled_from(["nurse", "senior nurse", "engineer", "remote video work " * 9, "", "健康 nurse"]),
        st.just(surface),
    )
)
HISTORY = st.lists(PAST, max_size=24)
POLICY = st.builds(
    HistoryPolicy,
    surfaces=st.sampled_from([["jobs"], ["jobs", "feed"], ["feed", "jobs"]]),
    name=st.sampled_from(["chronological", "round_robin", "similarity"]),
    max_interactions=st.sampled_from([None, 1, 3, 200]),
    hop_tokens=st.sampled_from([8, 256]),
    positives_only=st.booleans(),
    keep=st.sampled_from([{}, {"skip": 0.5}, {"skip": 0, "view": 1}]),
    deduplicate=st.booleans(),
    entity_tokens=st.sampled_from([None, 12]),
    half_life_days=st.sampled_from([1e-300, 1e-11, 30.0]),
)


@given(POLICY, HISTORY, st.integers(0, 13), st.sampled_from(["nurse", "video engineer", ""]))
@settings(max_examples=150, deadline=None)
def test_prompts_show_strictly_earlier_interactions_in_order_of_time_whatever_follows(
    tokenizer: Tokenizer, policy: HistoryPolicy, history: list[PastInteraction], moment: int, title: str
) -> None:
    compiler = PromptCompiler(SUITE, tokenizer, FORMAT, {"job_apply": policy})
    task, candidate = SUITE.task("job_apply"), job(title)

    def prompt(seen: list[PastInteraction], before: int | None) -> Prefix:
        return compiler.prefix(task, {"title": "nurse"}, seen, candidate=candidate, before=before)

    prefix = prompt(history, moment)
    ordered = sorted(history, key=lambda past: past.timestamp)
    turns = [ordered[place] for place in prefix.shown]
    assert all(turn.timestamp < moment and turn.surface in policy.surfaces for turn in turns)
    assert list(prefix.shown) == sorted(set(prefix.shown))
    # The future changes nothing: neither what is selected, nor a token, nor a count.
    assert prefix == prompt([past for past in history if past.timestamp < moment], None)
    question, _ = compiler.question(task, {}, candidate)
    assert len(prefix.ids) + len(question) + 1 <= FORMAT.context_length
    assert prefix.turns <= (policy.max_interactions or len(history))
    if policy.deduplicate:
        assert len({str(turn.entity) for turn in turns}) == len(turns)
    if policy.positives_only:
        assert {turn.action for turn in turns} <= {"apply", "save", "like"}
    assert not (0 in policy.keep.values() and any(turn.action == "skip" for turn in turns))


@given(HISTORY, st.integers(0, 13), POLICY)
@settings(max_examples=60, deadline=None)
def test_the_budget_is_filled_until_the_next_turn_exceeds_it(
    tokenizer: Tokenizer, history: list[PastInteraction], moment: int, policy: HistoryPolicy
) -> None:
    compiler = PromptCompiler(SUITE, tokenizer, FORMAT, {"job_apply": replace(policy, name="round_robin")})
    prefix = compiler.prefix(SUITE.task("job_apply"), {}, history, before=moment)
    if prefix.turns_dropped and prefix.turns != policy.max_interactions:
        longest = max(compiler.turn({}, past).length for past in history)
        assert len(prefix.ids) > compiler.prefix_budget - longest
    assert len(prefix.ids) <= compiler.prefix_budget


def test_without_a_maximum_more_context_shows_more(tokenizer: Tokenizer) -> None:
    history = [past(time, title=f"nurse {time}") for time in range(400)]
    for name in ("chronological", "round_robin"):
        counts = []
        for context in (256, 2048, 16_384):
            compiler = compiler_with(
                tokenizer, replace(FORMAT, context_length=context), name=name, max_interactions=None
            )
            counts.append(len(shown(compiler, history)))
        assert counts[0] < counts[1] < counts[2] == 400
        assert len(shown(compiler_with(tokenizer, replace(FORMAT, context_length=16_384), name=name), history)) <= 200


@pytest.mark.parametrize("policy", [{"keep": {"skip": 0.5}}, {"positives_only": True}, {"entity_tokens": 12}], ids=str)
def test_filters_keep_the_steady_start_of_a_chronological_window(tokenizer: Tokenizer, policy: dict[str, Any]) -> None:
    compiler = compiler_with(tokenizer, replace(FORMAT, context_length=512), **policy)
    history = [past(time, ["apply", "skip"][time % 2], f"nurse {time}") for time in range(300)]
    member = compiler.member({}, history)
    prefixes = [member.prefix(SUITE.task("job_apply"), before=moment).ids for moment in range(301)]
    extended = sum(later[: len(earlier)] == earlier for earlier, later in pairwise(prefixes))
    assert extended > 0.75 * 300


def test_round_robin_takes_the_newest_of_each_action_in_turn_the_most_valuable_first(tokenizer: Tokenizer) -> None:
    history = [
        past(1, "apply"),
        past(2, "apply"),
        past(3, "save"),
        past(4, "like", surface="feed"),
        *[past(time, "skip") for time in range(5, 20)],
    ]
    expected = {
        1: [2],
        2: [2, 4],
        3: [2, 3, 4],
        4: [2, 3, 4, 19],
        5: [1, 2, 3, 4, 19],
        7: [1, 2, 3, 4, 17, 18, 19],
    }
    for most, times in expected.items():
        compiler = compiler_with(tokenizer, name="round_robin", max_interactions=most)
        assert [turn.timestamp for turn in shown(compiler, history)] == times


def test_similarity_takes_what_shares_rare_words_with_the_candidate_and_then_the_newest(tokenizer: Tokenizer) -> None:
    history = [
        past(1 * DAY, title="night nurse"),
        past(2 * DAY, title="welder"),
        past(3 * DAY, title="clerk"),
        past(4 * DAY, title="Night guard"),
        past(5 * DAY, title="cook"),
    ]
    compiler = compiler_with(tokenizer, name="similarity", max_interactions=2, half_life_days=1000.0)
    assert [turn.timestamp // DAY for turn in shown(compiler, history, candidate=job("Nurse at night"))] == [1, 4]
    assert [turn.timestamp // DAY for turn in shown(compiler, history, candidate=job("welder"))] == [2, 5]
    assert [turn.timestamp // DAY for turn in shown(compiler, history, candidate=job("astronaut"))] == [4, 5]
    assert [turn.timestamp // DAY for turn in shown(compiler, history, candidate=job(""))] == [4, 5]
    common = [past(time * DAY, title=f"senior {word}") for time, word in enumerate(["cook", "nurse", "clerk"])]
    compiler = compiler_with(tokenizer, name="similarity", max_interactions=1, half_life_days=1000.0)
    assert [turn.timestamp // DAY for turn in shown(compiler, common, candidate=job("senior cook"))] == [0]


@pytest.mark.parametrize(("half_life", "day"), [(1.0, 9), (1000.0, 0)])
def test_age_counts_against_similarity(tokenizer: Tokenizer, half_life: float, day: int) -> None:
    history = [past(0, title="night nurse"), past(9 * DAY, title="night guard in a bank")]
    compiler = compiler_with(tokenizer, name="similarity", max_interactions=1, half_life_days=half_life)
    assert [turn.timestamp // DAY for turn in shown(compiler, history, candidate=job("night nurse"))] == [day]


def test_a_candidate_is_needed_for_a_history_that_depends_on_it(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="task job_apply: its history policy similarity depends on the candidate"):
        shown(compiler_with(tokenizer, name="similarity"), [past(1)])


def test_an_entity_is_shown_once_with_its_most_valuable_action_so_far(tokenizer: Tokenizer) -> None:
    compiler = compiler_with(tokenizer, deduplicate=True)
    history = [
        past(1, "view", "nurse"),
        past(2, "skip", "cook"),
        past(3, "apply", "nurse"),
        past(4, "view", "nurse"),
        past(5, "apply", "nurse"),
        past(6, "skip", "nurse", surface="feed"),
    ]

    def times(before: int) -> list[int]:
        return [turn.timestamp for turn in shown(compiler, history, before=before)]

    assert [times(before) for before in range(2, 8)] == [[1], [1, 2], [2, 3], [2, 3], [2, 5], [2, 5, 6]]


def test_a_share_of_an_action_is_kept_and_it_is_the_same_share_in_every_prompt(tokenizer: Tokenizer) -> None:
    roomy = replace(FORMAT, context_length=60_000)
    compiler = compiler_with(tokenizer, roomy, keep={"skip": 0.2}, max_interactions=None)
    history = [past(time, "skip" if time % 2 else "apply", f"nurse {time}") for time in range(2000)]
    kept = [turn for turn in shown(compiler, history) if turn.action == "skip"]
    assert 150 < len(kept) < 250
    assert sum(turn.action == "apply" for turn in shown(compiler, history)) == 1000
    half = [turn for turn in shown(compiler, history[1000:]) if turn.action == "skip"]
    assert half == [turn for turn in kept if turn.timestamp >= 1000]


def test_only_positive_actions_of_the_tasks_of_a_surface_are_shown(tokenizer: Tokenizer) -> None:
    history = [
        past(1, "apply"),
        past(2, "skip"),
        past(3, "save"),
        past(4, "view"),
        past(5, "like", surface="feed"),
        past(6, "skip", surface="feed"),
    ]
    compiler = compiler_with(tokenizer, positives_only=True)
    assert [turn.timestamp for turn in shown(compiler, history)] == [1, 3, 5]


def test_past_entities_are_shortened_and_the_candidate_is_not(tokenizer: Tokenizer) -> None:
    compiler, plain = compiler_with(tokenizer, entity_tokens=10), compiler_with(tokenizer)
    task, long = SUITE.task("job_apply"), "remote work video by ada at acme in berlin"
    history = [past(1, "apply", long)]
    short = compiler.prefix(task, {}, history)
    assert short.history_cut.tokens > 0
    assert len(short.ids) < len(plain.prefix(task, {}, history).ids)
    [turn] = compiler.member({}, history).turns(task, short.shown)
    assert len(turn.question) <= 10
    assert compiler.question(task, {}, job(long)) == plain.question(task, {}, job(long))


def test_candidates_with_the_same_history_share_one_prefix(tokenizer: Tokenizer) -> None:
    compiler = compiler_with(tokenizer, name="similarity", max_interactions=1)
    history = [past(1, title="nurse"), past(2, title="cook")]
    task, titles = SUITE.task("job_apply"), ["nurse", "cook", "night nurse", "astronaut"]
    member = compiler.member({}, history)
    first, second, third, fourth = member.prefixes(task, [job(title) for title in titles])
    assert first is third
    assert second is fourth
    for prefix, title in zip([first, second, third, fourth], titles, strict=True):
        assert prefix == compiler.prefix(task, {}, history, candidate=job(title))
    [chronological, same] = compiler_with(tokenizer).member({}, history).prefixes(task, [job("nurse"), job("cook")])
    assert chronological is same
    assert member.prefixes(task, []) == []


# A policy of the suite decides how its task trains.


def reference_prefix(
    compiler: PromptCompiler, task: TaskSpec, history: Sequence[PastInteraction], before: int
) -> tuple[tuple[int, ...], Cut, int]:
    """A chronological prefix, built from scratch for one moment: ids, what was cut, and the turns dropped."""
    most = task.history.max_interactions
    assert most is not None
    relevant = [past for past in history if past.surface in task.history.surfaces and past.timestamp < before]
    head, cut = compiler.head(task, {"title": "nurse"})
    oldest = first_possible(len(relevant), most)
    turns = [compiler.turn({"title": "nurse"}, past) for past in relevant[oldest:]]
    start = first_kept(
        [len(question) + len(answer) for question, answer, _ in turns],
        budget=compiler.prefix_budget - len(head),
        hop=hop_limit(task.history.hop_tokens, compiler.prefix_budget - compiler.format.head_tokens),
        most=most,
    )
    ids = head
    for question, answer, turn_cut in turns[start:]:
        ids += question + answer
        cut += turn_cut
    return ids, cut, oldest + start


def reference_documents(
    compiler: PromptCompiler, history: Sequence[PastInteraction], turn_of: int
) -> list[tuple[tuple[int, ...], list[int], Cut, int]]:
    """Training documents of the tasks of a suite whose surfaces are all trained, without any reuse of work."""
    suite, end = compiler.suite, compiler.tokenizer.end
    whole = [task for task in suite.tasks if not task.trains_on_examples]
    documents: list[tuple[tuple[int, ...], list[int], Cut, int]] = []
    pending = list(history) if whole else []
    while pending:
        ids, cut = compiler.head(whole[(turn_of + len(documents)) % len(whole)], {"title": "nurse"})
        roles = [0] * len(ids)
        while pending:
            question, answer, turn_cut = compiler.turn({"title": "nurse"}, pending[0])
            if len(ids) + len(question) + len(answer) + 1 > compiler.format.context_length:
                break
            role = int(pending[0].surface in {task.surface for task in whole})
            ids, cut = ids + question + answer, cut + turn_cut
            roles += [0] * len(question) + [role] * len(answer)
            pending = pending[1:]
        documents.append(((*ids, end), [*roles, 0], cut, 0))
    for task in suite.tasks:
        if task.trains_on_examples:
            for scored in [past for past in history if past.surface == task.surface][-task.examples_per_member :]:
                ids, cut, dropped = reference_prefix(compiler, task, history, scored.timestamp)
                question, question_cut = compiler.question(task, {"title": "nurse"}, scored.entity)
                answer = compiler.label(task, scored.action)
                prompt = ids + question
                roles = [0] * len(prompt) + [1] * len(answer)
                documents.append(((*prompt, *answer, end), [*roles, 0], cut + question_cut, dropped))
    return documents


OWN_OUTCOMES = [
    Outcome(name="yes", label="yes", actions=["apply", "save"]),
    Outcome(name="no", label="no", actions=["view", "skip"]),
]


@pytest.mark.parametrize(
    "task",
    [
        {},
        {"outcomes": OWN_OUTCOMES, "positive": ["yes"], "examples_per_member": 5},
        {"outcomes": OWN_OUTCOMES, "positive": ["yes"], "history": HistoryPolicy(surfaces=["jobs"], hop_tokens=20)},
    ],
    ids=["whole histories", "examples", "examples with another history"],
)
@given(st.lists(PAST, max_size=60), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_documents_are_those_of_an_implementation_that_encodes_each_prompt_by_itself(
    tokenizer: Tokenizer, task: dict[str, Any], history: list[PastInteraction], turn_of: int
) -> None:
    compiler = PromptCompiler(make_suite(**task), tokenizer, FORMAT)
    history = sorted(history, key=lambda past: past.timestamp)
    documents = compiler.documents({"title": "nurse"}, history, turn_of=turn_of)
    assert [(d.ids, list(d.roles), d.cut, d.turns_dropped) for d in documents] == reference_documents(
        compiler, history, turn_of
    )


@pytest.mark.parametrize(
    "policy",
    [
        {"name": "round_robin"},
        {"name": "similarity"},
        {"keep": {"skip": 0.5}},
        {"positives_only": True},
        {"deduplicate": True},
        {"entity_tokens": 12},
    ],
    ids=str,
)
def test_a_task_whose_history_is_not_plain_trains_on_the_prompts_of_serving(
    tokenizer: Tokenizer, policy: dict[str, Any]
) -> None:
    suite = make_suite(history=replace(PLAIN, **policy), examples_per_member=4)
    compiler, task = PromptCompiler(suite, tokenizer, FORMAT), suite.task("job_apply")
    history = [past(time, ["skip", "apply"][time % 2], f"nurse {time % 5}") for time in range(30)]
    documents = compiler.documents({}, history)[-4:]
    assert task.trains_on_examples
    for document, scored in zip(documents, history[-4:], strict=True):
        prefix = compiler.prefix(task, {}, history, candidate=scored.entity, before=scored.timestamp)
        prompt = prefix.ids + compiler.question(task, {}, scored.entity)[0]
        answer = compiler.label(task, scored.action)
        assert document.ids == (*prompt, *answer, compiler.tokenizer.end)
        assert document.roles == (*[0] * len(prompt), *[1] * len(answer), 0)


def test_surfaces_without_a_trained_task_reach_no_document(tokenizer: Tokenizer) -> None:
    suite = make_suite(outcomes=OWN_OUTCOMES, positive=["yes"])
    suite = replace(suite, tasks=[suite.tasks[0], replace(suite.tasks[1], in_training=False)])
    compiler = PromptCompiler(suite, tokenizer, FORMAT)
    history = [past(1, "apply"), past(2, "like", "engineer", "feed"), past(3, "skip", "cook")]
    documents = compiler.documents({}, history)
    assert documents == compiler.documents({}, [history[0], history[2]])
    assert len(documents) == 2


def test_each_turn_is_encoded_once_for_all_tasks_and_moments(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = make_suite(outcomes=OWN_OUTCOMES, positive=["yes"], examples_per_member=50)
    compiler = PromptCompiler(suite, tokenizer, FORMAT)
    encoded: list[int] = []
    turn_of = compiler.turn_of

    def count(values: Any, past: PastInteraction, most_tokens: int | None = None) -> Any:
        encoded.append(past.timestamp)
        return turn_of(values, past, most_tokens)

    monkeypatch.setattr(compiler, "turn_of", count)
    history = [past(time, title=f"nurse {time}") for time in range(300)]
    assert len(compiler.documents({}, history)) > 50
    assert sorted(encoded) == list(range(300))
    encoded.clear()
    member = compiler.member({}, history)
    for moment in range(301):
        for task in suite.tasks:
            member.prefix(task, before=moment)
    assert sorted(encoded) == list(range(300))


# What a suite, a compiler and a bundle accept.


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"surfaces": ["mars"]}, "task job_apply: surfaces mars are unknown"),
        ({"keep": {"eat": 0.1}}, "history.keep names actions eat, which none of its surfaces has. Use apply"),
        ({"surfaces": ["feed"], "keep": {"apply": 0.1}}, "history.keep names actions apply"),
    ],
)
def test_policies_that_the_suite_cannot_apply_are_refused(
    tokenizer: Tokenizer, policy: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_suite(history=replace(PLAIN, **policy))
    with pytest.raises(ConfigError, match=message):
        compiler_with(tokenizer, **policy)


def test_positives_of_a_surface_without_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match="positives_only would hide everything on surfaces feed, which have no task"):
        replace(make_suite(), tasks=make_suite(history=replace(PLAIN, positives_only=True)).tasks[:1])


@pytest.mark.parametrize(
    "settings_",
    [{"name": "random"}, {"keep": {"skip": 1.5}}, {"entity_tokens": 3}, {"half_life_days": 0.0}],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings_: dict[str, Any]) -> None:
    [key] = settings_
    with pytest.raises(ConfigError, match=f"^{key}"):
        HistoryPolicy(surfaces=["jobs"], **settings_)


def test_a_replaced_policy_changes_one_task_and_neither_the_digest_nor_other_prompts(tokenizer: Tokenizer) -> None:
    bundle = PromptBundle(suite=SUITE, format=FORMAT, tokenizer=tokenizer)
    plain, replaced = bundle.compiler(), bundle.compiler({"job_apply": replace(PLAIN, name="round_robin")})
    again = pickle.loads(pickle.dumps(replaced))
    history = [past(time, "apply" if time < 3 else "skip", f"nurse {time}") for time in range(60)]
    for task in SUITE.tasks:
        prefixes = [compiler.prefix(task, {}, history) for compiler in (plain, replaced, again)]
        assert (prefixes[0] == prefixes[1]) == (task.name != "job_apply")
        assert prefixes[1] == prefixes[2]
    assert PromptBundle.of(replaced).digest == bundle.digest
    with pytest.raises(UserError, match="task 'nope' is unknown; this model knows job_apply, post_like"):
        bundle.compiler({"nope": PLAIN})


def test_defaults_leave_the_stored_suite_as_it_was() -> None:
    stored = make_suite().to_dict()["tasks"][0]["history"]
    assert stored == {"surfaces": BOTH, "max_interactions": 200, "hop_tokens": 256}
    changed = make_suite(history=replace(PLAIN, keep={"skip": 0.5}, max_interactions=None))
    assert TaskSuite.from_dict(changed.to_dict()) == changed


def test_nothing_cut_is_an_empty_history(tokenizer: Tokenizer) -> None:
    prefix = compiler_with(tokenizer, name="similarity", deduplicate=True).prefix(
        SUITE.task("job_apply"), {}, [], candidate=job("nurse")
    )
    assert (prefix.turns, prefix.turns_dropped, prefix.history_cut) == (0, 0, NOTHING_CUT)

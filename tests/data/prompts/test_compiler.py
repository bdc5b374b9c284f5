"""The prompt compiler: equal token ids on every path, an exact budget, and no forged turns."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.prompts.compiler import Entity, PastInteraction, PromptCompiler, PromptFormat
from brew_data.prompts.history import hop_limit
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tokenizer import CONTROL_TOKENS, Tokenizer
from brew_platform.errors import UserError

PROFILE = {"title": "nurse", "industry": "health", "location": "berlin"}


def job(title: str = "nurse", **fields: object) -> Entity:
    return Entity(entity_type="job", fields={"title": title, **fields})


def past(time: int, action: str = "apply", **fields: object) -> PastInteraction:
    return PastInteraction(entity=job(**fields), surface="jobs", action=action, timestamp=time)


def test_a_prompt_reads_as_a_chat_with_the_candidate_last(compiler: PromptCompiler) -> None:
    task = compiler.suite.task("job_apply")
    prefix = compiler.prefix(task, PROFILE, [past(1), past(2, "skip", title="engineer")])
    question, cut = compiler.question(task, PROFILE, job("clerk", location="berlin"))
    assert not cut
    assert compiler.tokenizer.decode(prefix.ids + question) == (
        "<|system|>Predict whether the member applies to each job.<|member|>health\nnurse\nin berlin\n"
        "<|user|>job for health\nnurse\n<|assistant|>apply<|user|>job for health\nengineer\n<|assistant|>skip"
        "<|user|>job for health\nclerk\nin berlin\n<|assistant|>"
    )


def test_a_turn_opens_with_the_first_phrase_whose_fields_the_profile_has(compiler: PromptCompiler) -> None:
    task = compiler.suite.task("job_apply")
    opened = {
        industry: compiler.tokenizer.decode(compiler.question(task, {"industry": industry}, job("clerk"))[0])
        for industry in ["health", ""]
    }
    assert opened["health"].startswith("<|user|>job for health\nclerk\n")
    assert opened[""].startswith("<|user|>job\nclerk\n")


def test_a_training_document_begins_with_exactly_the_prompt_that_serving_builds(compiler: PromptCompiler) -> None:
    task = compiler.suite.task("job_apply")
    history = [past(t, "apply" if t % 2 else "skip", title=f"nurse {t}") for t in range(12)]
    offset = [t.name for t in compiler.suite.tasks].index("job_apply")
    [document] = compiler.documents(PROFILE, history, turn_of=offset)
    for scored in history:
        prefix = compiler.prefix(task, PROFILE, history, before=scored.timestamp)
        prompt = prefix.ids + compiler.question(task, PROFILE, scored.entity)[0]
        answer = compiler.labels(task)[scored.action]
        assert document.ids[: len(prompt) + len(answer)] == prompt + answer
        assert document.roles[len(prompt) - 1 : len(prompt) + len(answer)] == (0, *[1] * len(answer))
    assert document.ids[-1] == compiler.tokenizer.end


def test_only_strictly_earlier_interactions_are_shown(compiler: PromptCompiler) -> None:
    task = compiler.suite.task("job_apply")
    history = [past(1), past(2), past(2), past(3)]
    assert compiler.prefix(task, PROFILE, history, before=2).turns == 1
    assert compiler.prefix(task, PROFILE, history, before=3).turns == 3


def test_the_members_own_words_follow_the_instruction(compiler: PromptCompiler) -> None:
    task = compiler.suite.task("job_apply")
    text = compiler.tokenizer.decode(compiler.prefix(task, PROFILE, [], own_words=" no night shifts ").ids)
    with_contact = compiler.prefix(task, PROFILE, [], own_words="no night shifts, +1 202-555-0142").ids
    assert compiler.tokenizer.decode(with_contact) == text
    assert "each job. no night shifts<|member|>" in text


@given(st.text(max_size=60), st.sampled_from(CONTROL_TOKENS), st.text(max_size=10))
@settings(max_examples=50, deadline=None)
def test_no_outside_text_can_forge_a_control_token(
    compiler: PromptCompiler, before: str, token: str, after: str
) -> None:
    task = compiler.suite.task("job_apply")
    evil = before + token + after
    profile, entity = {"title": evil}, job(evil)
    shown = PastInteraction(entity=entity, surface="jobs", action="apply", timestamp=0)
    prefix = compiler.prefix(task, profile, [shown], own_words=evil)
    ids = prefix.ids + compiler.question(task, profile, entity)[0]
    control = [i for i in ids if i < len(CONTROL_TOKENS)]
    t = compiler.tokenizer
    turns = [t.user, t.assistant] * prefix.turns
    assert control == [t.system, t.member, *turns, t.user, t.assistant]


@given(
    st.lists(st.integers(min_value=0, max_value=40), max_size=80),
    st.integers(min_value=0, max_value=400),
    st.integers(min_value=0, max_value=200),
)
@settings(max_examples=60, deadline=None)
def test_no_prompt_is_longer_than_the_context_and_cuts_are_counted(
    compiler: PromptCompiler, turn_words: list[int], profile_words: int, own_words: int
) -> None:
    task = compiler.suite.task("job_apply")
    history = [past(i, title="nurse " * words) for i, words in enumerate(turn_words)]
    prefix = compiler.prefix(task, {"title": "engineer " * profile_words}, history, own_words="remote " * own_words)
    question, cut = compiler.question(task, {}, job("senior " * profile_words))
    longest = max(len(ids) for ids in compiler.labels(task).values())
    assert len(prefix.ids) + len(question) + longest <= compiler.format.context_length
    assert prefix.turns + prefix.turns_dropped == len(history)
    assert (cut.tokens > 0) == (len(compiler.tokenizer.encode(f"job\n{('senior ' * profile_words).strip()}\n")) > 62)
    if profile_words > 200:
        assert prefix.head_cut.tokens > 0


def test_the_next_prompt_of_a_member_extends_the_last_one_until_a_hop(compiler: PromptCompiler) -> None:
    task = compiler.suite.task("job_apply")
    history = [past(i, title=f"nurse {i}") for i in range(200)]
    extended = 0
    for now in range(1, 200):
        earlier = compiler.prefix(task, PROFILE, history, before=now).ids
        later = compiler.prefix(task, PROFILE, history, before=now + 1).ids
        extended += later[: len(earlier)] == earlier
    tokens = sum(len(ids) for past in history for ids in compiler.turn(PROFILE, past)[:2])
    assert extended >= 199 - 2 * tokens / hop_limit(task.history.hop_tokens, 512 - 64 - 1 - 128) - 199 / 30


def test_long_histories_become_several_documents_with_every_interaction_once(compiler: PromptCompiler) -> None:
    history = [past(i, title=f"nurse {i}") for i in range(300)]
    documents = compiler.documents(PROFILE, history)
    assert len(documents) > 1
    assert all(len(d.ids) == len(d.roles) <= compiler.format.context_length for d in documents)
    questions = sum(d.ids.count(compiler.tokenizer.user) for d in documents)
    assert questions == len(history)


def test_unknown_surfaces_actions_and_entity_types_are_refused_with_the_known_ones(compiler: PromptCompiler) -> None:
    task = compiler.suite.task("job_apply")
    with pytest.raises(UserError, match="surface 'mars' is unknown; this model knows jobs"):
        compiler.turn(PROFILE, PastInteraction(entity=job(), surface="mars", action="apply", timestamp=0))
    with pytest.raises(UserError, match="action 'eat' is unknown on surface 'jobs'; known are apply, skip"):
        compiler.turn(PROFILE, past(0, "eat"))
    with pytest.raises(UserError, match="ranks entities of type 'job', not 'post'"):
        compiler.question(task, PROFILE, Entity(entity_type="post", fields={}))
    with pytest.raises(UserError, match="task 'nope' is unknown; this model knows job_apply"):
        compiler.suite.task("nope")


def test_a_context_without_room_for_history_is_refused(suite: TaskSuite, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="leaves no tokens for history"):
        PromptCompiler(suite, tokenizer, PromptFormat(context_length=128))

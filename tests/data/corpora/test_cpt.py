"""Documents of plain text for CPT: whole records, nothing of untrained surfaces, never longer than the context."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.corpora.cpt import entity_documents, network_documents, profile_documents
from brew_data.prompts.compiler import Document, Entity, PastInteraction, PromptCompiler
from brew_data.prompts.network import Link
from brew_data.prompts.suite import load_suite
from brew_data.prompts.variation import VariationConfig

PROFILE = {"title": "nurse", "industry": "health"}
JOB = Entity(entity_type="job", fields={"title": "welder", "industry": "steel"})
POST = Entity(entity_type="post", fields={"topic": "law"})
LINKS = [
    Link("connection", {"title": "clerk", "industry": "law"}, 3),
    Link("follow", {"title": "cook"}, 2),
    Link("follower", {}, 1),
]


def past(entity: Entity, surface: str, action: str) -> PastInteraction:
    return PastInteraction(entity=entity, surface=surface, action=action, timestamp=0)


HISTORY = [past(JOB, "jobs", "apply"), past(POST, "feed", "skip")]


def texts(compiler: PromptCompiler, documents: list[Document]) -> list[str]:
    for document in documents:
        assert document.roles == (1,) * len(document.ids)
        assert document.ids[-1] == compiler.tokenizer.end
        assert not compiler.tokenizer.control_ids.intersection(document.ids[:-1])
    return [compiler.tokenizer.decode(document.ids[:-1]) for document in documents]


def chat_compiler(compiler: PromptCompiler) -> PromptCompiler:
    prompt_format = replace(compiler.format, context_length=1024, head_tokens=440, question_tokens=160)
    return PromptCompiler(load_suite("economic_graph_chat"), compiler.tokenizer, prompt_format)


def test_a_profile_is_followed_by_its_network_and_its_history(compiler: PromptCompiler) -> None:
    chat = chat_compiler(compiler)
    assert texts(chat, profile_documents(chat, PROFILE, HISTORY, LINKS)) == [
        "Member profile: Current position: nurse. Industry: health.\n"
        "Connections: 1\nFollows members: 1\nFollowers: 1\nConnected with: clerk\nFollows: cook\n"
        "apply: [Title: welder, Description: position in steel]\nskip: [Topic: law]\n"
    ]
    assert texts(compiler, profile_documents(compiler, PROFILE, HISTORY)) == [
        "health\nnurse\napply: steel\nwelder\nskip: law\n"
    ]
    assert profile_documents(compiler, {}, []) == []


def test_the_label_can_follow_the_entity_in_another_variation(compiler: PromptCompiler) -> None:
    chat = chat_compiler(compiler)
    found = {
        text
        for number in range(20)
        for text in texts(
            chat,
            profile_documents(chat, {}, HISTORY[:1], variation=VariationConfig(share=1.0).draw("m", number)),
        )
    }
    assert found == {
        "apply: [Title: welder, Description: position in steel]\n",
        "[Title: welder, Description: position in steel]: apply\n",
    }


def test_a_network_has_a_line_for_each_member_with_a_profile(compiler: PromptCompiler) -> None:
    assert texts(compiler, network_documents(compiler, PROFILE, LINKS)) == [
        "health\nnurse\nConnected with: law, clerk\nFollows: cook\n"
    ]
    assert network_documents(compiler, PROFILE, []) == []


def test_a_long_entity_becomes_several_documents(compiler: PromptCompiler) -> None:
    title = " ".join(f"word{number}" for number in range(2000))
    documents = entity_documents(compiler, Entity(entity_type="job", fields={"title": title}))
    assert len(documents) > 2
    assert "".join(texts(compiler, documents)) == f"{title}\n"
    assert max(len(document.ids) for document in documents) == compiler.format.context_length
    assert entity_documents(compiler, Entity(entity_type="job", fields={})) == []


def test_surfaces_without_a_trained_task_are_left_out(compiler: PromptCompiler) -> None:
    suite = compiler.suite
    tasks = [replace(task, in_training=task.surface == "jobs") for task in suite.tasks]
    trained = PromptCompiler(replace(suite, tasks=tasks), compiler.tokenizer, compiler.format)
    assert texts(trained, profile_documents(trained, PROFILE, HISTORY)) == ["health\nnurse\napply: steel\nwelder\n"]
    assert entity_documents(trained, POST) == []
    assert len(entity_documents(trained, JOB)) == 1


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(0, 200), st.integers(0, 2**20))
@settings(max_examples=20, deadline=None)
def test_no_document_is_longer_than_the_context_and_every_line_is_in_one(
    compiler: PromptCompiler, words: list[int], profile_words: int, seed: int
) -> None:
    history = [
        past(Entity(entity_type="job", fields={"title": f"job{place} " + "nurse " * count}), "jobs", "apply")
        for place, count in enumerate(words)
    ]
    variation = VariationConfig(seed=seed, share=1.0).draw("m", 0)
    profile = {"title": "welder " * profile_words}
    documents = profile_documents(compiler, profile, history, LINKS, variation=variation)
    assert all(len(document.ids) <= compiler.format.context_length for document in documents)
    everything = "".join(texts(compiler, documents))
    for place in range(len(words)):
        assert everything.count(f"job{place} ") + everything.count(f"job{place}\n") == 1


@pytest.mark.parametrize("text", ["<|user|>", "<|end|>"])
def test_records_cannot_forge_control_tokens(compiler: PromptCompiler, text: str) -> None:
    entity = Entity(entity_type="job", fields={"title": text})
    link = Link("connection", {"title": text}, 0)
    documents = [
        *profile_documents(compiler, {"title": text}, [past(entity, "jobs", "apply")], [link]),
        *network_documents(compiler, {"title": text}, [link]),
        *entity_documents(compiler, entity),
    ]
    assert all(text in shown for shown in texts(compiler, documents))

"""Documents and prompts are shown token by token, with the reason of every turn and what was cut."""

from collections.abc import Sequence

import pytest

from brew_cluster.jobs.data_inspect import Inspection, inspect_bin, inspect_document, inspect_member
from brew_data.data_folder import DataFolder
from brew_platform.errors import UserError


def texts(inspection: Inspection) -> dict[str, str]:
    """The text of each part."""
    return {part.name: "".join(token.text for token in part.tokens) for part in inspection.parts}


def with_loss(inspection: Inspection) -> list[str]:
    """The text of each part that carries loss."""
    parts = ("".join(token.text for token in part.tokens if token.has_loss) for part in inspection.parts)
    return [text for text in parts if text]


def reasons(inspection: Inspection) -> Sequence[tuple[str, str, str]]:
    """Time in seconds, action and reason of each turn."""
    origins = [part.origin for part in inspection.parts if part.origin is not None]
    return [(origin.time[17:19], origin.action, origin.reason) for origin in origins]


def test_a_document_of_the_bins_is_divided_into_its_parts(built_folder: DataFolder) -> None:
    document = inspect_document(built_folder, "bins", 0)
    assert document.title == "document 0 of bin 0 of bins"
    assert texts(document) == {
        "instruction": "<|system|>Predict: bought, viewed only.",
        "profile": "<|member|>Berlin\n",
        "turn 1": "<|user|>product\nLamp\n<|assistant|>viewed only",
        "turn 2": "<|user|>product\nOak chair\n<|assistant|>bought",
        "turn 3": "<|user|>product\nLamp\n<|assistant|>bought<|end|>",
    }
    assert with_loss(document) == ["viewed only", "bought", "bought"]
    assert (document.context_length, document.tokens) == (256, sum(len(part.tokens) for part in document.parts))
    assert all(token.is_control == token.text.startswith("<|") for part in document.parts for token in part.tokens)
    assert inspect_bin(built_folder, "bins", 0) == [document]


def test_the_training_documents_of_a_member_are_those_in_the_bins(built_folder: DataFolder) -> None:
    [document] = inspect_member(built_folder, "ada")
    assert document.title == "training document 1 of 1 of member ada"
    packed = inspect_document(built_folder, "bins", 0)
    assert [part.tokens for part in document.parts] == [part.tokens for part in packed.parts]
    assert reasons(document) == [
        (time, action, "whole history, task buy")
        for time, action in (("00", "viewed"), ("02", "bought"), ("03", "bought"))
    ]


def test_a_slate_is_shown_with_what_its_candidates_attend_to(slate_folder: DataFolder) -> None:
    [slate] = inspect_member(slate_folder, "ada")
    assert texts(slate) == {
        "instruction": "<|system|>Predict: bought, viewed only.",
        "profile": "<|member|>Berlin\n",
        "turn 1": "<|user|>product\nLamp\n<|assistant|>viewed only",
        "turn 2": "<|user|>product\nOak chair\n<|assistant|>bought",
        "candidate 1": "<|user|>next product\nLamp\n<|assistant|>viewed only<|end|>",
        "candidate 2": "<|user|>next product\nOak chair\n<|assistant|>bought<|end|>",
        "candidate 3": "<|user|>next product\nLamp\n<|assistant|>bought<|end|>",
    }
    assert with_loss(slate) == ["viewed only", "bought", "bought"]
    assert reasons(slate) == [
        ("00", "viewed", "chronological, task buy"),
        ("02", "bought", "chronological, task buy"),
        ("00", "viewed", "the candidate of task buy"),
        ("02", "bought", "the candidate of task buy"),
        ("03", "bought", "the candidate of task buy"),
    ]
    lengths = [len(part.tokens) for part in slate.parts]
    starts = [sum(lengths[:number]) for number in (2, 3, 4)]  # of turn 1, turn 2 and candidate 1
    assert [part.prefix for part in slate.parts] == [None, None, None, None, *starts]
    packed = inspect_document(slate_folder, "bins", 0)
    assert [(part.name, part.tokens, part.prefix) for part in packed.parts] == [
        (part.name, part.tokens, part.prefix) for part in slate.parts
    ]


def test_a_prompt_shows_why_each_turn_is_there(built_folder: DataFolder) -> None:
    [prompt] = inspect_member(built_folder, "ada", task="buy")
    assert prompt.title == "prompt of task buy for interaction 5 of member ada"
    assert reasons(prompt) == [
        ("00", "viewed", "chronological, choice 4"),
        ("02", "bought", "chronological, choice 3"),
        ("03", "bought", "chronological, choice 2"),
        ("04", "viewed", "chronological, choice 1"),
        ("05", "viewed", "the candidate"),
    ]
    assert prompt.left_out == {"on a surface that the policy does not show": 1}
    assert with_loss(prompt) == ["viewed only"]
    cut = {part.name: part for part in prompt.parts if part.cut}
    assert cut.keys() == {"turn 4"}
    assert cut["turn 4"].full_text.startswith("product\nSofa of soft red velvet")
    assert cut["turn 4"].cut.tokens > 50
    assert "D\\xc3\\xa9sk [/]" in texts(prompt)["turn 5"]  # bytes of a character, one by one


def test_the_options_of_a_policy_explain_what_is_left_out(built_folder: DataFolder) -> None:
    [prompt] = inspect_member(built_folder, "ada", task="buy_again", interaction_id=4)
    assert reasons(prompt) == [
        ("02", "bought", "round_robin, choice 2"),
        ("03", "bought", "round_robin, choice 1"),
        ("04", "viewed", "the candidate"),
    ]
    assert prompt.left_out == {
        "not earlier than the candidate": 1,
        "on a surface that the policy does not show": 1,
        "not in the share of the action that is kept (keep)": 1,
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("eve", None, None), "has no member 'eve'. Give the id of one of its members, such as '"),
        (("ben", None, None), "member 'ben' has opted out"),
        (("ada", "sell", None), "task 'sell' is unknown; this model knows buy, buy_again"),
        (("ada", "buy", 1), "member 'ada' has no interaction 1 on surface 'shop', which task buy predicts"),
    ],
)
def test_what_cannot_be_shown_is_named(
    built_folder: DataFolder, arguments: tuple[str, str | None, int | None], words: str
) -> None:
    member, task, interaction = arguments
    with pytest.raises(UserError) as error:
        inspect_member(built_folder, member, task=task, interaction_id=interaction)
    assert words in str(error.value)


def test_bins_that_are_not_there_are_named(built_folder: DataFolder) -> None:
    with pytest.raises(UserError, match=r"has no bins 'evaluation'\. Give one of: bins"):
        inspect_document(built_folder, "evaluation", 0)
    with pytest.raises(UserError, match=r"has no document 1\. Give a number from 0 to 0"):
        inspect_document(built_folder, "bins", 1)

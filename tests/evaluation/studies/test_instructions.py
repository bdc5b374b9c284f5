"""Rules of instructions: answers that follow and break each, the loose forms, combinations without contradiction."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_eval.studies.instructions import KINDS, Instruction, draw_instructions, follows, loose_forms

LABELS, NAMES = ["apply", "skip"], ["Data Engineer", "Berlin"]
# An answer that follows each kind, and some that do not. {…} is filled from the sentence of the instruction.
SENTENCES = {
    "English": "They apply because the job is with the company that they like.",
    "German": "Das Mitglied bewirbt sich nicht, weil die Stelle für eine andere Stadt ist.",
    "French": "Le membre est dans une ville qui est sur la carte, et il postule pour les autres.",
    "Spanish": "El miembro está muy lejos, pero ella y los otros miran las ofertas en una web por lo menos.",
    "Portuguese": "O membro não se candidata porque a vaga é em uma cidade longe, mas ela gosta ao menos das empresas.",
}


def make(kind: str, seed: int = 0) -> Instruction:
    found = draw_instructions(random.Random(seed), labels=LABELS, names=NAMES, most=1, kinds=[kind])
    assert [instruction.kind for instruction in found] == [kind]
    return found[0]


def following(instruction: Instruction) -> str:
    """Return an answer that follows an instruction, from its sentence alone."""
    text = instruction.text
    quoted = text.split('"')[1::2]
    digits = "".join(character for character in text if character.isdigit())
    match instruction.kind:
        case "one_label":
            return "Apply"
        case "upper_case":
            return "THEY APPLY."
        case "lower_case":
            return "they apply."
        case "json_keys":
            return json.dumps(dict.fromkeys(quoted, 1))
        case "most_words":
            return " ".join(["word"] * int(digits))
        case "least_words":
            return " ".join(["word"] * int(digits))
        case "language":
            return SENTENCES[next(name for name in SENTENCES if name in text)]
        case "end_with":
            return f"They apply. {quoted[0]}"
        case "mention":
            return f"They like {quoted[0].lower()}."
        case "avoid":
            return "They apply."
        case "bullets":
            return "\n".join(f"- point {n}" for n in range(int(digits)))
        case _:
            return "They apply"


BROKEN = {
    "one_label": "They apply",
    "upper_case": "They apply",
    "lower_case": "They apply",
    "json_keys": '{"other": 1}',
    "most_words": "word " * 41,
    "least_words": "word",
    "language": "xyz",
    "end_with": "They apply. Or not.",
    "mention": "They like nothing.",
    "avoid": "data engineer berlin",
    "bullets": "- only this",
    "no_punctuation": "They apply.",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_rules_hold_for_answers_that_follow_their_sentence(kind: str, seed: int) -> None:
    instruction = make(kind, seed)
    assert follows(instruction, following(instruction))
    assert follows(instruction, f"  {following(instruction)}\n")
    assert not follows(instruction, BROKEN[kind])
    assert not follows(instruction, " \n")


@pytest.mark.parametrize("answer", ["[1]", "{", '{"answer": 1', "null", "[" * 100_000, '"answer"'])
def test_an_answer_that_is_not_an_object_is_not_json(answer: str) -> None:
    assert not follows(make("json_keys"), answer, loose=True)


def test_a_fence_around_json_is_accepted() -> None:
    instruction = make("json_keys")
    assert follows(instruction, f"```json\n{following(instruction)}\n```")


def test_the_loose_criterion_forgives_an_introduction_and_asterisks() -> None:
    instruction = make("one_label")
    assert not follows(instruction, "Sure, here is my answer:\n**apply**")
    assert follows(instruction, "Sure, here is my answer:\n**apply**", loose=True)
    assert not follows(instruction, "Sure.\n\nI think:\napply", loose=True)


@given(st.text(alphabet="ab*\n ", max_size=30))
def test_loose_forms_are_the_eight_of_ifeval(answer: str) -> None:
    forms = loose_forms(answer)
    assert len(forms) == 8
    assert forms[0] == answer.strip()
    assert all("*" not in form for form in forms[1::2])


@given(st.integers(0, 10_000))
def test_combinations_do_not_contradict_each_other(seed: int) -> None:
    found = draw_instructions(random.Random(seed), labels=LABELS, names=NAMES, most=3)
    again = draw_instructions(random.Random(seed), labels=LABELS, names=NAMES, most=3)
    assert [each.text for each in found] == [each.text for each in again]
    assert 1 <= len(found) <= 3
    kinds = {instruction.kind for instruction in found}
    assert len(kinds) == len(found)
    for pair in (
        {"upper_case", "lower_case"},
        {"most_words", "least_words"},
        {"one_label", "json_keys"},
        {"no_punctuation", "end_with"},
        {"json_keys", "upper_case"},  # the keys are in small letters
        {"mention", "avoid"},
    ):
        assert not pair <= kinds

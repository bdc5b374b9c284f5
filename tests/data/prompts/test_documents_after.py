"""Documents of later interactions only: each answer is trained once, and earlier turns are shown without loss."""

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.prompts.compiler import Document, Entity, PastInteraction, PromptCompiler, PromptFormat
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import Action, Surface, TaskSpec
from brew_data.prompts.templates import RecordTemplate
from brew_data.prompts.tokenizer import train_tokenizer

PROFILE = {"city": "Berlin"}


@cache
def compiler() -> PromptCompiler:
    """A task that trains on whole histories, and one that trains on examples."""
    actions = [Action(name="buy", label="bought"), Action(name="skip", label="passed")]
    history = HistoryPolicy(surfaces=["shop"])
    suite = TaskSuite(
        name="shop",
        profile=RecordTemplate(fields=["city"], phrases=["{{ city }}"]),
        entities={"product": RecordTemplate(fields=["title"], phrases=["{{ title }}"])},
        surfaces=[Surface(name="shop", entity_type="product", question=["product"], actions=actions)],
        tasks=[
            TaskSpec(name="buys", surface="shop", instruction="Predict.", positive=["buy"], history=history),
            TaskSpec(
                name="likes", surface="shop", instruction="Guess.", positive=["buy"], history=history,
                question=["Do they buy {{ entity }}?"], examples_per_member=3,
            ),
        ],
    )  # fmt: skip
    tokenizer = train_tokenizer(["product lamp chair bought passed Predict."], vocabulary_size=290)
    return PromptCompiler(suite, tokenizer, PromptFormat(context_length=128, head_tokens=24, question_tokens=40))


def interactions(times: list[int]) -> list[PastInteraction]:
    titles, names = ("lamp", "chair", "a long sofa of red velvet"), ("buy", "skip")
    return [
        PastInteraction(
            entity=Entity(entity_type="product", fields={"title": titles[number % 3]}),
            surface="shop",
            action=names[number % 2],
            timestamp=time,
        )
        for number, time in enumerate(sorted(times))
    ]


def whole_histories(documents: list[Document]) -> list[Document]:
    instruction = compiler().tokenizer.encode("Predict.")
    return [document for document in documents if document.ids[1 : 1 + len(instruction)] == instruction]


def answers(documents: list[Document]) -> list[int]:
    """The trained tokens in order."""
    return [id_ for doc in documents for id_, role in zip(doc.ids, doc.roles, strict=True) if role]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 50), max_size=40), st.integers(0, 50))
def test_every_answer_of_a_whole_history_is_trained_once(times: list[int], after: int) -> None:
    history = interactions(times)
    before = [past for past in history if past.timestamp <= after]
    first = compiler().documents(PROFILE, before)
    later = compiler().documents(PROFILE, history, after=after)
    assert all(len(document.ids) <= 128 for document in later)
    expected = answers(whole_histories(compiler().documents(PROFILE, history)))
    assert answers(whole_histories(first)) + answers(whole_histories(later)) == expected
    examples = len(later) - len(whole_histories(later))
    assert examples == min(3, len(history) - len(before))


def test_earlier_turns_are_shown_without_loss() -> None:
    history = interactions(list(range(12)))
    [document] = whole_histories(compiler().documents(PROFILE, history, after=10))
    text = compiler().tokenizer.decode(document.ids)
    assert text.count("<|user|>") > 1
    assert text.endswith("a long sofa of red velvet\n<|assistant|>passed<|end|>")
    assert answers([document]) == list(compiler().tokenizer.encode("passed"))
    assert len(document.ids) <= 128 // 2 + 1
    assert compiler().documents(PROFILE, history, after=11) == []

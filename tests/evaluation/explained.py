"""A member with history on two surfaces, whose prompt shows some fields and not others."""

from collections.abc import Sequence
from dataclasses import replace

from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import PromptFormat
from brew_data.prompts.entity import Entity, PastInteraction
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import Action, Surface, TaskSpec
from brew_data.prompts.templates import RecordTemplate
from brew_data.prompts.tokenizer import train_tokenizer
from brew_eval.prompt_variants import PromptRow

__all__ = ["BUNDLE", "TITLES", "make_row", "past", "with_policy"]

TITLES = ["lamp", "oak chair", "red sofa", "desk", "green vase", "shelf", "mirror", "bed"]

SUITE = TaskSuite(
    name="shop",
    profile=RecordTemplate(fields=["city", "job", "about"], phrases=["in {{ city }}", "{{ job }}", "{{ about }}"]),
    entities={
        "product": RecordTemplate(fields=["title", "brand"], phrases=["{{ title }}", "by {{ brand }}"]),
        "letter": RecordTemplate(fields=["title"], phrases=["{{ title }}"]),
    },
    surfaces=[
        Surface(
            name="shop", entity_type="product", question=["product for a {{ job }}", "product"],
            actions=[Action(name="bought", label="bought"), Action(name="viewed", label="viewed only")],
        ),
        Surface(
            name="mail", entity_type="letter", question=["letter"],
            actions=[Action(name="opened", label="opened"), Action(name="deleted", label="deleted")],
        ),
    ],
    tasks=[
        TaskSpec(
            name="buy", surface="shop", instruction="Predict: {{ labels }}.", positive=["bought"],
            history=HistoryPolicy(surfaces=["shop", "mail"], max_interactions=12, hop_tokens=32),
        ),
    ],
)  # fmt: skip

BUNDLE = PromptBundle(
    suite=SUITE,
    format=PromptFormat(context_length=256, head_tokens=48, question_tokens=32),
    tokenizer=train_tokenizer(
        [*TITLES, "product for a nurse", "bought viewed only opened deleted"] * 9, vocabulary_size=320
    ),
)


def with_policy(name: str) -> PromptBundle:
    """Return the bundle with another history policy."""
    [task] = SUITE.tasks
    return replace(BUNDLE, suite=replace(SUITE, tasks=[replace(task, history=replace(task.history, name=name))]))


def past(number: int, *, surface: str = "shop", action: str = "bought") -> PastInteraction:
    """Return an interaction at a second."""
    kind = "product" if surface == "shop" else "letter"
    entity = Entity(entity_type=kind, fields={"title": TITLES[number % len(TITLES)]})
    return PastInteraction(entity=entity, surface=surface, action=action, timestamp=number * 1_000_000)


def make_row(
    history: Sequence[PastInteraction], *, before: int = 1_000_000_000, bundle: PromptBundle = BUNDLE, **profile: str
) -> PromptRow:
    """Return a row about a lamp."""
    return PromptRow(
        task=bundle.suite.task("buy"),
        profile=profile or {"city": "Rome", "job": "nurse"},
        history=history,
        candidate=Entity(entity_type="product", fields={"title": "lamp", "brand": "Oak", "sku": "77"}),
        before=before,
    )

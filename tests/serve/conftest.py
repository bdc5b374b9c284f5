"""One tiny random model with its tokenizer and suite, written once; and an engine that needs no model."""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from brew_data.compiler import Entity, Past, PromptCompiler, PromptFormat
from brew_data.tables import TIMESTAMP, Tables
from brew_data.tasks import Action, HistoryPolicy, TaskSpec, TaskSuite
from brew_data.tokenizer import Tokenizer, train_tokenizer
from brew_serve.version import LoadedVersion, load_version, write_suite_files

CONTEXT_LENGTH = 384
FORMAT = PromptFormat(context_length=CONTEXT_LENGTH, head_tokens=64, question_tokens=32)
TITLES = ["data engineer", "nurse", "welder", "data scientist", "teacher", "chef", "pilot", "editor"]


class TableEngine:
    """An Engine whose answers are a fixed random function of the last tokens, normalised over a small vocabulary."""

    def __init__(self, vocabulary_size: int) -> None:
        self.vocabulary_size = vocabulary_size
        self.calls = 0

    def logprobs(self, prompt: Sequence[int]) -> list[float]:
        rng = random.Random(repr(tuple(prompt)))
        logits = [rng.gauss(0, 3) for _ in range(self.vocabulary_size)]
        total = math.log(sum(map(math.exp, logits)))
        return [logit - total for logit in logits]

    async def next_token_logprobs(self, prompt: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        self.calls += 1
        logprobs = self.logprobs(prompt)
        return [logprobs[id_] for id_ in token_ids]

    def check(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture(scope="session")
def suite() -> TaskSuite:
    """Two tasks: one of single-token labels, one whose labels share their first token."""
    history = HistoryPolicy(surfaces=["jobs", "feed"], max_interactions=12, hop=4)
    return TaskSuite(
        name="tiny",
        profile=["{title}", "in {location}"],
        entities={"job": ["{title}", "at {company}"], "post": ["{topic}"]},
        tasks=[
            TaskSpec(
                name="job_apply",
                surface="jobs",
                entity_type="job",
                instruction="Predict whether the member applies.",
                question=["job"],
                actions=[Action(name="apply", label="apply"), Action(name="skip", label="skip")],
                positive=["apply"],
                history=history,
            ),
            TaskSpec(
                name="post_interest",
                surface="feed",
                entity_type="post",
                instruction="Predict the interest of the member.",
                question=["post"],
                actions=[
                    Action(name="like", label="like"),
                    Action(name="later", label="not now"),
                    Action(name="hide", label="not ever again"),
                ],
                positive=["like", "later"],
                history=history,
            ),
        ],
    )


@pytest.fixture(scope="session")
def tokenizer(suite: TaskSuite) -> Tokenizer:
    words = [f"job {title} at acme in berlin post news about {title} like skip apply" for title in TITLES]
    texts = [*words, *(task.instruction for task in suite.tasks)] * 3
    labels = ["apply", "skip", "like", "not", "now", "ever", "again"]  # "not now" is never seen, so it is no token
    return train_tokenizer([*texts, *labels * 100], vocabulary_size=400)


@pytest.fixture(scope="session")
def compiler(suite: TaskSuite, tokenizer: Tokenizer) -> PromptCompiler:
    return PromptCompiler(suite, tokenizer, FORMAT)


@pytest.fixture
def table_engine(tokenizer: Tokenizer) -> TableEngine:
    return TableEngine(tokenizer.vocabulary_size)


@pytest.fixture(scope="session")
def candidates() -> list[tuple[str, Entity]]:
    """Jobs to rank, under the ids c0, c1, ..."""
    return [(f"c{i}", job(title)) for i, title in enumerate(TITLES)]


@pytest.fixture(scope="session")
def version_folder(tmp_path_factory: pytest.TempPathFactory, suite: TaskSuite, tokenizer: Tokenizer) -> Path:
    """A version folder with a random Mixtral of 100,000 parameters."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    folder = tmp_path_factory.mktemp("version")
    torch.manual_seed(1)
    model = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=tokenizer.vocabulary_size,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=4,
            num_experts_per_tok=2,
            max_position_embeddings=CONTEXT_LENGTH,
            tie_word_embeddings=False,
            initializer_range=0.3,
        )
    )
    with torch.no_grad():  # so that earlier tokens, not the last one alone, decide the answer, and none is certain
        model.get_input_embeddings().weight.mul_(0.1)
        model.get_output_embeddings().weight.mul_(0.15)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    write_suite_files(folder, suite, FORMAT)
    return folder


@pytest.fixture(scope="session")
def version(version_folder: Path) -> LoadedVersion:
    return load_version(version_folder)


@pytest.fixture(scope="session")
def history() -> list[Past]:
    """Eight past interactions on both surfaces, a second apart."""
    past = []
    for i, title in enumerate(TITLES):
        if i % 2:
            entity, surface, action = Entity(entity_type="post", fields={"topic": title}), "feed", "hide"
        else:
            entity, surface, action = job(title), "jobs", "apply"
        past.append(Past(entity=entity, surface=surface, action=action, timestamp=i * 1_000_000))
    return past


@pytest.fixture(scope="session")
def tables(history: list[Past]) -> Tables:
    """Ada's history as tables; beside her a member without history, and one who opted out."""
    entities = [past.entity for past in history]
    fields = pa.struct({"title": pa.string(), "company": pa.string(), "topic": pa.string()})
    return Tables(
        members=pa.table(
            {
                "member_id": ["ada", "new", "gone"],
                "profile": [{"title": "engineer", "location": "berlin"}, {"title": "nurse", "location": None}, {}],
                "locale": ["en", "en", "en"],
                "opted_out": [False, False, True],
            }
        ),
        entities=pa.table(
            {
                "entity_id": [f"e{i}" for i in range(len(entities))],
                "entity_type": [entity.entity_type for entity in entities],
                "created_at": pa.array([0] * len(entities), TIMESTAMP),
                "fields": pa.array([dict(entity.fields) for entity in entities], fields),
            }
        ),
        interactions=pa.table(
            {
                "interaction_id": pa.array(range(2 * len(history)), pa.int64()),
                "member_id": ["ada", "gone"] * len(history),
                "entity_id": [f"e{i}" for i in range(len(history)) for _ in range(2)],
                "surface": [past.surface for past in history for _ in range(2)],
                "action": [past.action for past in history for _ in range(2)],
                "timestamp": pa.array([past.timestamp for past in history for _ in range(2)], TIMESTAMP),
            }
        ),
    )


def job(title: str) -> Entity:
    return Entity(entity_type="job", fields={"title": title, "company": "acme"})

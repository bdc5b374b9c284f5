"""Fixtures: a tiny random model with tokenizer and suite, and an engine without a model."""

import gc
import math
import random
import warnings
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.compiler import Entity, PastInteraction, PromptCompiler, PromptFormat
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import Action, Surface, TaskSpec
from brew_data.prompts.templates import RecordTemplate
from brew_data.prompts.tokenizer import Tokenizer, train_tokenizer
from brew_data.schema import TIMESTAMP, Tables
from brew_serve.context.base import MemberContext
from brew_serve.engines.base import Engine, EngineUsage, GeneratedToken, Sampling, Shared
from brew_serve.engines.torch import TorchEngine
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion, load_version

from ..redis_server import RedisServer, find_redis
from .engine_processes import engine_cores
from .nearline_service import LocalNearline

CONTEXT_LENGTH = 384
FORMAT = PromptFormat(context_length=CONTEXT_LENGTH, head_tokens=64, question_tokens=32)
TITLES = ["data engineer", "nurse", "welder", "data scientist", "teacher", "chef", "pilot", "editor"]


class TableEngine:
    """An engine whose results are a fixed random function of the last tokens, normalised over a small vocabulary."""

    def __init__(self, vocabulary_size: int) -> None:
        self.vocabulary_size = vocabulary_size
        self.calls = 0
        self.usage = EngineUsage()

    def logprobs(self, prompt: Sequence[int]) -> list[float]:
        rng = random.Random(repr(tuple(prompt)))
        logits = [rng.gauss(0, 3) for _ in range(self.vocabulary_size)]
        total = math.log(sum(map(math.exp, logits)))
        return [logit - total for logit in logits]

    async def next_token_logprobs(
        self, prompt: Sequence[int], token_ids: Sequence[int], shared: Shared | None = None
    ) -> list[float]:
        self.calls += 1
        logprobs = self.logprobs(prompt)
        return [logprobs[id_] for id_ in token_ids]

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[GeneratedToken, None]:
        raise NotImplementedError

    def check(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture(scope="session")
def suite() -> TaskSuite:
    """Two tasks: one with single-token labels, and one whose labels share their first token."""
    history = HistoryPolicy(surfaces=["jobs", "feed"], max_interactions=12, hop_tokens=64)
    return TaskSuite(
        name="tiny",
        profile=RecordTemplate(fields=["title", "location"], phrases=["{{ title }}", "in {{ location }}"], cut="end"),
        entities={
            "job": RecordTemplate(fields=["title", "company"], phrases=["{{ title }}", "at {{ company }}"], cut="end"),
            "post": RecordTemplate(fields=["topic"], phrases=["{{ topic }}"], cut="end"),
        },
        surfaces=[
            Surface(
                name="jobs",
                entity_type="job",
                question=["job"],
                actions=[Action(name="apply", label="apply"), Action(name="skip", label="skip")],
            ),
            Surface(
                name="feed",
                entity_type="post",
                question=["post"],
                actions=[
                    Action(name="like", label="like"),
                    Action(name="later", label="not now"),
                    Action(name="hide", label="not ever again"),
                ],
            ),
        ],
        tasks=[
            TaskSpec(
                name="job_apply",
                surface="jobs",
                instruction="Predict whether the member applies.",
                positive=["apply"],
                history=history,
            ),
            TaskSpec(
                name="post_interest",
                surface="feed",
                instruction="Predict the interest of the member.",
                positive=["like", "later"],
                history=history,
            ),
        ],
    )


@pytest.fixture(scope="session")
def tokenizer(suite: TaskSuite) -> Tokenizer:
    words = [f"job {title} at acme in berlin post news about {title} like skip apply" for title in TITLES]
    texts = [*words, *(task.instruction for task in suite.tasks)] * 3
    # "not now" is not in the text, so it has several tokens.
    labels = ["apply", "skip", "like", "not", "now", "ever", "again"]
    return train_tokenizer([*texts, *labels * 100], vocabulary_size=400)


@pytest.fixture(scope="session")
def compiler(suite: TaskSuite, tokenizer: Tokenizer) -> PromptCompiler:
    return PromptCompiler(suite, tokenizer, FORMAT)


@pytest.fixture
def table_engine(tokenizer: Tokenizer) -> TableEngine:
    return TableEngine(tokenizer.vocabulary_size)


@pytest.fixture(scope="session")
def candidates() -> list[tuple[str, Entity]]:
    """Return jobs to rank with the ids c0, c1, ..."""
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
    with torch.no_grad():  # so that the answer depends on earlier tokens too, and no answer is certain
        model.get_input_embeddings().weight.mul_(0.1)
        model.get_output_embeddings().weight.mul_(0.15)
    model.save_pretrained(folder)
    PromptBundle(suite=suite, format=FORMAT, tokenizer=tokenizer).save(folder)
    return folder


@pytest.fixture(scope="session")
def version(version_folder: Path) -> LoadedVersion:
    return load_version(version_folder)


@pytest.fixture(scope="session")
def history() -> list[PastInteraction]:
    """Eight past interactions on both surfaces, a second apart."""
    past = []
    for i, title in enumerate(TITLES):
        if i % 2:
            entity, surface, action = Entity(entity_type="post", fields={"topic": title}), "feed", "hide"
        else:
            entity, surface, action = job(title), "jobs", "apply"
        past.append(PastInteraction(entity=entity, surface=surface, action=action, timestamp=i * 1_000_000))
    return past


@pytest.fixture(scope="session")
def tables(history: list[PastInteraction]) -> Tables:
    """Tables with Ada's history, a member without history, and a member who opted out."""
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


@pytest.fixture(scope="module")
def service(
    version: LoadedVersion, tables: Tables, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RankingService]:
    path = tmp_path_factory.mktemp("context") / "context.sqlite"
    MemberContext.build(tables, path)
    service = RankingService(3, version, TorchEngine(version.folder), MemberContext(path))
    yield service
    service.close()


@pytest.fixture
def body(history: list[PastInteraction], candidates: list[tuple[str, Entity]]) -> dict[str, Any]:
    """A complete inline request."""
    return {
        "task": "job_apply",
        "member": {
            "profile": {"title": "engineer", "location": "berlin"},
            "history": [
                {
                    "entity_type": past.entity.entity_type,
                    "fields": past.entity.fields,
                    "surface": past.surface,
                    "action": past.action,
                    "timestamp": f"1970-01-01T01:00:{past.timestamp // 1_000_000:02}+01:00",
                }
                for past in reversed(history)
            ],
        },
        "candidates": [{"id": id_, "fields": entity.fields} for id_, entity in candidates],
    }


def job(title: str) -> Entity:
    return Entity(entity_type="job", fields={"title": title, "company": "acme"})


@pytest.fixture(scope="module")
def context_file(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context that is built once; tests copy it."""
    path = tmp_path_factory.mktemp("nearline") / "context.sqlite"
    MemberContext.build(tables, path)
    return path


@pytest.fixture
def nearline(
    tmp_path: Path, context_file: Path, compiler: PromptCompiler, table_engine: TableEngine
) -> Iterator[LocalNearline]:
    nearline = LocalNearline(tmp_path, context_file, compiler, table_engine)
    yield nearline
    nearline.close()


@pytest.fixture(scope="session")
def redis_binary() -> tuple[str, str]:
    """The program redis-server, and the folder of its libraries."""
    return find_redis()


@pytest.fixture
def new_redis(redis_binary: tuple[str, str], tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server for one test."""
    server = RedisServer(redis_binary, tmp_path / "redis")
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_url(redis_binary: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server that tests share; each test uses its own prefix."""
    server = RedisServer(redis_binary, tmp_path_factory.mktemp("redis"))
    yield server.url
    server.kill()


@pytest.fixture(scope="module")
def collected() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def reference(version_folder: Path) -> TorchEngine:
    return TorchEngine(version_folder)


@pytest.fixture(scope="module")
def vllm(version: LoadedVersion, collected: None) -> Iterator[Engine]:
    from brew_serve.engines.vllm.engine import VllmEngine

    engine = VllmEngine(version.folder, version.engine)
    yield engine
    cores = engine_cores()
    engine.close()
    engine.close()  # harmless
    assert len(engine_cores()) == len(cores) - 1

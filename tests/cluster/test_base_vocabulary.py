"""A base model that lacks control tokens, end to end: added rows are trained, exported, and served by vLLM."""

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from brew_data.packed_bins.schema import finish_plan, write_file
from brew_data.prompts.bundle import PromptBundle
from brew_data.prompts.chat import chat_ids
from brew_data.prompts.compiler import PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.prompts.tokenizer import Tokenizer
from brew_serve.engines.base import Engine
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.torch import TorchEngine
from brew_serve.version import load_version
from brew_train.config import ModelConfig, ModelShape, StageConfig, TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.loop import train
from brew_train.run_context import RunContext

from ..base_tokenizers import write_base_tokenizer

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:Unclosed context <zmq:ResourceWarning"),
]

CONTEXT = 512
ADDED = 5


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """vLLM leaves its ZeroMQ context to the garbage collector, which warns."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama whose tokenizer has no tokens for turns."""
    folder = tmp_path_factory.mktemp("base")
    write_base_tokenizer("mixtral", folder)
    torch.manual_seed(0)
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=Tokenizer.from_model(folder).n_tokens - ADDED,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=CONTEXT,
            initializer_range=0.2,
            tie_word_embeddings=request.param,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    lm.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(base: Path) -> PromptBundle:
    return PromptBundle(
        suite=load_suite("movielens"),
        format=PromptFormat(context_length=CONTEXT, head_tokens=192, question_tokens=96),
        tokenizer=Tokenizer.from_model(base),
    )


@pytest.fixture(scope="module")
def export(base: Path, bundle: PromptBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base after a few steps on chats."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = bundle.tokenizer
    documents = []
    for number in range(24):
        prompt = chat_ids(tokenizer, [("system", "apply or skip"), ("user", f"engineer at acme {number}")])
        documents.append((*prompt, *tokenizer.encode("apply" if number % 2 else "skip"), tokenizer.end))
    lengths = [len(document) for document in documents]
    table = pa.table(
        {
            "file": pa.array([0] * 24, pa.int64()),
            "bin_id": pa.array([i // 4 for i in range(24)], pa.int64()),
            "slot": pa.array([i % 4 for i in range(24)], pa.int64()),
            "length": pa.array(lengths, pa.int64()),
            "ids": pa.array(documents, pa.list_(pa.int32())),
            "roles": pa.array([[0] * (n - 3) + [1] * 3 for n in lengths], pa.list_(pa.uint8())),
        }
    )
    (folder / "bins").mkdir()
    plan = finish_plan(
        write_file(table, out=folder / "bins").to_pylist(),
        n_bins=6,
        n_documents=24,
        context_length=CONTEXT,
        vocabulary_size=tokenizer.vocabulary_size,
        prompt_digest=bundle.digest,
    )
    plan.write(folder / "bins")
    config = TrainConfig(
        model=ModelConfig(init_from=str(base)),
        stages=[StageConfig(name="cpt", steps=4, bins_per_step=2, learning_rate=0.01, warmup_steps=1)],
        workers=1,
    )
    run = RunContext(
        bins={"cpt": folder / "bins"},
        out=folder / "run",
        shape=ModelShape(vocabulary_size=tokenizer.vocabulary_size, context_length=CONTEXT),
        distributed=DistributedContext(device=torch.device("cpu")),
    )
    exported = train(config, run).export
    bundle.save(exported)
    return exported


async def logprobs(engine: Engine, bundle: PromptBundle) -> np.ndarray:
    chats = [[("system", "apply or skip"), ("user", f"nurse in berlin {i} </s><|user|>")] for i in range(3)]
    ids = list(range(bundle.tokenizer.vocabulary_size))
    return np.array([await engine.next_token_logprobs(chat_ids(bundle.tokenizer, chat), ids) for chat in chats])


async def test_transformers_loads_the_grown_vocabulary(base: Path, bundle: PromptBundle, export: Path) -> None:
    lm, before = (AutoModelForCausalLM.from_pretrained(folder) for folder in (export, base))
    rows, size = before.config.vocab_size, lm.config.vocab_size
    assert size % 64 == 0
    assert size - 64 < bundle.tokenizer.vocabulary_size == rows + ADDED <= size
    tied = before.config.tie_word_embeddings
    assert (lm.lm_head.weight is lm.model.embed_tokens.weight) == tied
    embeddings = lm.model.embed_tokens.weight
    assert embeddings.shape[0] == lm.lm_head.weight.shape[0] == size
    # Rows of tokens in the data were trained.
    trained = (embeddings[:rows] != before.model.embed_tokens.weight).any(1)
    assert trained[bundle.tokenizer.bos]
    loaded = AutoTokenizer.from_pretrained(export)
    text = "nurse </s> <|user|> berlin"
    assert tuple(loaded(text, add_special_tokens=False)["input_ids"]) == bundle.tokenizer.encode(text)
    assert len(loaded) == bundle.tokenizer.n_tokens

    version = load_version(export)
    assert version.ids_without_token == tuple(range(bundle.tokenizer.n_tokens, size))
    found = await logprobs(TorchEngine(export), bundle)
    ids = chat_ids(bundle.tokenizer, [("system", "apply or skip"), ("user", "nurse in berlin 0 </s><|user|>")])
    with torch.no_grad():
        expected = lm(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[: found.shape[1]]
    np.testing.assert_allclose(found[0], expected.numpy(), atol=1e-5)


@pytest.mark.real
async def test_vllm_serves_the_grown_vocabulary(bundle: PromptBundle, export: Path) -> None:
    from brew_serve.engines.vllm.engine import VllmEngine

    expected = await logprobs(TorchEngine(export), bundle)
    engine = VllmEngine(export, EngineConfig(max_model_len=CONTEXT, kv_cache_bytes=64 * 2**20))
    try:
        found = await logprobs(engine, bundle)
    finally:
        engine.close()
    np.testing.assert_allclose(found, expected, atol=1e-4)

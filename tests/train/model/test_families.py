"""Every family trains on packed rows as transformers computes each document alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from brew_platform.errors import UserError
from brew_platform.model_folder.families import FAMILIES
from brew_train.config import ModelConfig, ModelShape, StageConfig, TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.batches import Bin, collate
from brew_train.loop import train
from brew_train.model.base_model import require_base_model
from brew_train.model.init_weights import materialize
from brew_train.model.model import RankingLM, build_model
from brew_train.objectives.base import make_objective
from brew_train.run_context import RunContext

from ...tiny_families import TINY, VOCABULARY, WINDOW, make_tiny, write_tiny

SHAPE = ModelShape(vocabulary_size=VOCABULARY, context_length=200)
LENGTHS = [5, 150, 1, WINDOW, WINDOW + 1, 40]  # 150: longer than a chunk of windowed attention
ALONE = DistributedContext(device=torch.device("cpu"))


def load(folder: Path) -> RankingLM:
    config = ModelConfig(init_from=str(folder), router_aux_loss=0.0)
    require_base_model(folder, SHAPE)
    model = build_model(config, SHAPE)
    materialize(model, config, ALONE, seed=0)
    return model.train()


def documents() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, VOCABULARY, tokens).astype(np.int32) for tokens in LENGTHS]


def packed() -> Bin:
    return Bin(
        input_ids=np.concatenate(documents()),
        doc_lengths=np.array(LENGTHS, np.int32),
        roles=np.zeros(sum(LENGTHS), np.uint8),
    )


@pytest.fixture(scope="module", params=TINY)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    write_tiny(request.param, folder)
    return folder


def test_every_family_has_a_tiny_model() -> None:
    assert TINY.keys() == FAMILIES.keys()


def test_packed_training_equals_transformers_on_each_document_alone(family: Path) -> None:
    model = load(family)
    batch = collate([packed()])
    objective = make_objective({"name": "next_token"}).bind(batch.counts())
    loss, losses_T, _ = model(batch, objective, ALONE)
    loss.backward()

    plain = AutoModelForCausalLM.from_pretrained(family, attn_implementation="eager").train()
    expected_losses = []
    for ids in documents():
        logits = plain(torch.from_numpy(ids).long().unsqueeze(0), use_cache=False).logits[0]
        targets = torch.from_numpy(ids[1:]).long()
        expected_losses.append(torch.cat([F.cross_entropy(logits[:-1], targets, reduction="none"), torch.zeros(1)]))
    expected_T = torch.cat(expected_losses)
    expected = expected_T.sum() / (len(expected_T) - len(LENGTHS))
    expected.backward()

    torch.testing.assert_close(losses_T, expected_T.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss.detach(), expected.detach(), atol=1e-5, rtol=0)
    gradients = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in model.lm.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-4, msg=name)


def test_a_slate_has_the_losses_that_transformers_computes_for_each_candidate_with_its_prefix(family: Path) -> None:
    model, plain = load(family), AutoModelForCausalLM.from_pretrained(family, attn_implementation="eager")
    prefix, candidates = 40, [(WINDOW + 3, 40), (5, 21)]  # tokens of each, and of the prefix that it reads
    tokens = prefix + sum(length for length, _ in candidates)
    ids = np.random.default_rng(1).integers(0, VOCABULARY, tokens).astype(np.int32)
    slate = Bin(
        input_ids=ids,
        doc_lengths=np.array([tokens], np.int32),
        roles=np.zeros(tokens, np.uint8),
        segment_lengths=np.array([prefix, *(length for length, _ in candidates)], np.int32),
        segment_prefixes=np.array([0, *(seen for _, seen in candidates)], np.int32),
    )
    batch = collate([slate])
    _, losses_T, _ = model(batch, make_objective({"name": "next_token"}).bind(batch.counts()), ALONE)
    start = prefix
    for length, seen in candidates:
        alone = torch.from_numpy(np.concatenate([ids[:seen], ids[start : start + length]])).long()
        logits = plain(alone.unsqueeze(0), use_cache=False).logits[0, seen:-1]
        expected = F.cross_entropy(logits, alone[seen + 1 :], reduction="none").detach()
        torch.testing.assert_close(losses_T[start : start + length - 1], expected, atol=1e-5, rtol=1e-5)
        start += length


def test_a_base_model_is_trained_and_exported_in_its_own_dtype(write_bins: Callable[..., Path], tmp_path: Path) -> None:
    """From bfloat16 weights, with one more token than the base has, to a folder that transformers loads."""
    make_tiny("gemma3_text").bfloat16().save_pretrained(tmp_path / "base")
    bins = write_bins(tmp_path / "bins", vocabulary_size=VOCABULARY + 1)
    config = TrainConfig(
        model=ModelConfig(init_from=str(tmp_path / "base")),
        stages=[StageConfig(name="sft", steps=3, bins_per_step=2, warmup_steps=1, learning_rate=1e-3)],
        workers=1,
    )
    run = RunContext(
        bins={"sft": bins},
        out=tmp_path / "run",
        shape=ModelShape(vocabulary_size=VOCABULARY + 1, context_length=64),
        distributed=ALONE,
        end_token_ids=(96,),
    )
    result = train(config, run)
    lm = AutoModelForCausalLM.from_pretrained(result.export)
    assert lm.dtype == torch.bfloat16
    assert lm.config.layer_types == TINY["gemma3_text"]["layer_types"]
    assert lm.generation_config.eos_token_id == [1, 96]
    assert lm.config.vocab_size >= VOCABULARY + 1
    assert lm.lm_head.weight is lm.model.embed_tokens.weight
    require_base_model(result.export, run.shape)  # the next stage can start from it


@pytest.mark.parametrize(("schedule", "precision"), [("schedule_free", "float32"), ("cosine", "bfloat16")])
@pytest.mark.parametrize("model_type", ["gemma3_text", "llama"])  # a tied and an untied head
def test_frozen_embeddings_stay_and_all_other_weights_are_trained(
    schedule: str, precision: str, model_type: str, write_bins: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_tiny(model_type, vocab_size=97)
    base.save_pretrained(tmp_path / "base")
    config = TrainConfig(
        model=ModelConfig(init_from=str(tmp_path / "base"), train_embeddings=False),
        stages=[
            StageConfig(name="sft", steps=4, bins_per_step=2, warmup_steps=1, learning_rate=0.01, schedule=schedule)
        ],
        workers=1,
        precision=precision,
        checkpoint_every=2,
    )
    run = RunContext(
        bins={"sft": write_bins(tmp_path / "bins")},
        out=tmp_path / "run",
        shape=ModelShape(vocabulary_size=97, context_length=64),
        distributed=ALONE,
    )
    trained = AutoModelForCausalLM.from_pretrained(train(config, run).export)
    frozen = {"model.embed_tokens.weight", "lm_head.weight"}
    for name, parameter in trained.named_parameters():
        assert torch.equal(parameter, base.get_parameter(name)) == (name in frozen), name

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            raise RuntimeError("stopped")

    cut = replace(run, out=tmp_path / "cut")
    with pytest.raises(RuntimeError, match="stopped"):
        train(config, replace(cut, on_step=stop))
    train(config, cut)
    files = [tmp_path / name / "export" / "model.safetensors" for name in ("run", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_embeddings_that_lack_tokens_of_the_data_are_not_frozen(tmp_path: Path) -> None:
    write_tiny("llama", tmp_path)
    sizes = ModelShape(vocabulary_size=VOCABULARY + 1, context_length=64)
    with pytest.raises(UserError, match=r"the data have 97 tokens and the model in .* has 96: .* must be trained"):
        build_model(ModelConfig(init_from=str(tmp_path), train_embeddings=False), sizes)

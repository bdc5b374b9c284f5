"""Packed documents do not see each other, and the model's forward is the loss it says it is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from brew_platform.errors import UserError
from brew_train.batches import Batch, Bin, collate
from brew_train.config import ModelConfig
from brew_train.losses import NO_TARGET, token_weights
from brew_train.model import RankingLM, balance_loss, build_model
from brew_train.world import World

LENGTHS = [5, 1, 9, 3]
SMALL = ModelConfig(hidden_size=16, intermediate_size=16, layers=2, heads=4, kv_heads=2)


def small_model(config: ModelConfig = SMALL) -> RankingLM:
    model = build_model(config, vocabulary_size=50, context_length=64, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0 if parameter.ndim > 1 else 1.0)  # fresh weights are so small that a leak would not show
    return model


def packed() -> Batch:
    random = np.random.default_rng(0)
    tokens = sum(LENGTHS)
    ids = random.integers(0, 50, tokens).astype(np.int32)
    roles = random.integers(0, 2, tokens).astype(np.uint8)
    return collate([Bin(input_ids=ids, doc_lengths=np.array(LENGTHS, np.int32), roles=roles)])


def logits_of(model: RankingLM, batch: Batch) -> torch.Tensor:
    out = model.lm(
        input_ids=batch.input_ids_1T,
        position_ids=batch.position_ids_1T,
        attention_mask=None,
        use_cache=False,
        cu_seq_lens_q=batch.cu_seqlens,
        max_length_q=batch.max_length,
    )
    return out.logits[0].detach()


def test_packed_logits_equal_those_of_documents_alone(tmp_path: Path) -> None:
    model, batch = small_model(), packed()
    model.lm.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    alone = [plain(document.unsqueeze(0)).logits[0] for document in batch.input_ids_1T[0].split(LENGTHS)]
    torch.testing.assert_close(logits_of(model, batch), torch.cat(alone).detach(), atol=1e-5, rtol=0)


def test_a_changed_token_changes_no_other_document() -> None:
    model, batch = small_model(), packed()
    ids = batch.input_ids_1T.clone()
    ids[0, 6] = (ids[0, 6] + 1) % 50  # first token of the third document
    changed = logits_of(model, replace(batch, input_ids_1T=ids)) != logits_of(model, batch)
    assert changed.any(dim=1).tolist() == [False] * 6 + [True] * 9 + [False] * 3


def test_the_forward_is_the_weighted_loss_of_the_logits(alone: World) -> None:
    model, batch = small_model(replace(SMALL, router_aux_loss=0.0)), packed()
    weights = token_weights(batch.roles_T, batch.targets_T, batch.counts(), 0.3)
    loss, each = model(batch, weights, alone)
    expected = F.cross_entropy(logits_of(model, batch), batch.targets_T, ignore_index=NO_TARGET, reduction="none")
    torch.testing.assert_close(each, expected)
    torch.testing.assert_close(loss.detach(), (weights * expected).sum())


def test_the_router_loss_is_that_of_transformers_and_1_when_uniform(alone: World) -> None:
    logits = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        balance_loss((logits,), top_k=2, world=alone) * 2, load_balancing_loss_func((logits,), 4, 2)
    )
    torch.testing.assert_close(balance_loss((torch.zeros(8, 4),) * 3, top_k=4, world=alone), torch.tensor(1.0))


def test_the_router_loss_reaches_the_router(alone: World) -> None:
    batch = packed()
    gradients = []
    for weight in (0.0, 1.0):
        model = small_model(replace(SMALL, router_aux_loss=weight))
        loss, _ = model(batch, token_weights(batch.roles_T, batch.targets_T, batch.counts(), None), alone)
        loss.backward()
        gradients.append(model.lm.model.layers[0].mlp.gate.weight.grad)
    assert not torch.allclose(gradients[0], gradients[1])


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = (build_model(SMALL, vocabulary_size=50, context_length=64, seed=3) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_starting_from_a_dense_model(tmp_path: Path, alone: World) -> None:
    settings = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(settings).save_pretrained(tmp_path)
    model = build_model(ModelConfig(init_from=str(tmp_path)), vocabulary_size=50, context_length=64, seed=0)
    batch = packed()
    loss, _ = model(batch, token_weights(batch.roles_T, batch.targets_T, batch.counts(), None), alone)
    assert 3.0 < loss.item() < 5.0

    with pytest.raises(UserError, match="knows 50 token ids, but the bins were made with 51"):
        build_model(ModelConfig(init_from=str(tmp_path)), vocabulary_size=51, context_length=64, seed=0)
    with pytest.raises(UserError, match="reads at most 64 tokens"):
        build_model(ModelConfig(init_from=str(tmp_path)), vocabulary_size=50, context_length=65, seed=0)
    with pytest.raises(UserError, match=r"which has no config\.json"):
        build_model(ModelConfig(init_from=str(tmp_path / "none")), vocabulary_size=50, context_length=64, seed=0)

"""Packed documents do not attend to each other, and the forward pass returns the documented loss."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.varlen import varlen_attn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from brew_platform.errors import UserError
from brew_train.config import ModelConfig, ModelShape
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.batches import Batch, Bin, collate
from brew_train.model import attention
from brew_train.model.attention import varlen_attention
from brew_train.model.init_weights import materialize
from brew_train.model.model import RankingLM, balance_loss, build_model
from brew_train.objectives.base import BatchLoss, make_objective
from brew_train.objectives.fused_losses import NO_TARGET, token_weights

LENGTHS = [5, 1, 9, 3]
SHAPE = ModelShape(vocabulary_size=50, context_length=64)
# fresh weights of the usual size are so small that a leak would not show
SMALL = ModelConfig(hidden_size=16, intermediate_size=16, layers=2, heads=4, kv_heads=2, initializer_range=0.3)
PLAIN = replace(SMALL, router_aux_loss=0.0)
ALONE = DistributedContext(device=torch.device("cpu"))


def small_model(config: ModelConfig = SMALL) -> RankingLM:
    model = build_model(config, SHAPE)
    materialize(model, config, ALONE, seed=3)
    return model.train()


def bins() -> list[Bin]:
    """Documents of random tokens, one to a bin."""
    random = np.random.default_rng(0)
    return [
        Bin(
            input_ids=random.integers(0, 50, tokens).astype(np.int32),
            doc_lengths=np.array([tokens], np.int32),
            roles=random.integers(0, 2, tokens).astype(np.uint8),
        )
        for tokens in LENGTHS
    ]


def objective_of(batch: Batch, *, micro_steps: int = 1) -> BatchLoss:
    return make_objective({"name": "next_token", "prompt_weight": 0.3}).bind(batch.counts(), micro_steps=micro_steps)


def gradients_of(model: RankingLM) -> dict[str, torch.Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


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


def test_packed_documents_have_the_loss_and_the_gradients_of_documents_alone() -> None:
    model, batch = small_model(PLAIN), collate(bins())
    objective = objective_of(batch)
    packed, losses, sums = model(batch, objective, ALONE)
    packed.backward()
    packed_gradients = gradients_of(model)
    alone = [model(collate([document]), objective, ALONE) for document in bins()]
    sum(loss for loss, _, _ in alone).backward()  # type: ignore[union-attr]
    torch.testing.assert_close(losses, torch.cat([each for _, each, _ in alone]), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(sums, torch.stack([measured for _, _, measured in alone]).sum(dim=0))
    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(packed_gradients[name], gradient, atol=1e-6, rtol=1e-5)


def test_packed_logits_equal_those_of_transformers_for_documents_alone(tmp_path: Path) -> None:
    model, batch = small_model(), collate(bins())
    model.lm.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    alone = [plain(document.unsqueeze(0)).logits[0] for document in batch.input_ids_1T[0].split(LENGTHS)]
    torch.testing.assert_close(logits_of(model, batch), torch.cat(alone).detach(), atol=1e-5, rtol=0)


def test_a_changed_token_changes_no_other_document() -> None:
    model, batch = small_model(), collate(bins())
    ids = batch.input_ids_1T.clone()
    ids[0, 6] = (ids[0, 6] + 1) % 50  # first token of the third document
    changed = (logits_of(model, replace(batch, input_ids_1T=ids)) - logits_of(model, batch)).abs() > 1e-5
    assert changed.any(dim=1).tolist() == [False] * 6 + [True] * 9 + [False] * 3


def test_the_forward_is_the_weighted_loss_of_the_logits() -> None:
    model, batch = small_model(PLAIN), collate(bins())
    loss, each, sums = model(batch, objective_of(batch), ALONE)
    expected = F.cross_entropy(logits_of(model, batch), batch.targets_T, ignore_index=NO_TARGET, reduction="none")
    weights = token_weights(batch.roles_T, batch.targets_T, batch.counts()[:2], 0.3)
    torch.testing.assert_close(each, expected)
    torch.testing.assert_close(loss.detach(), (weights * expected).sum())
    assert sums[0].item() == pytest.approx(loss.item())


@pytest.mark.parametrize("heads", [(4, 2), (4, 4)])
@pytest.mark.parametrize(("window", "left"), [(None, -1), (4, 3), (9, -1)])  # no document is longer than 9
def test_half_precision_uses_a_kernel_for_packed_documents(
    heads: tuple[int, int], window: int | None, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU, fake tensors check our call, forward and backward, against the signature of PyTorch's kernel."""
    with FakeTensorMode():
        query, key, value = (
            torch.empty(1, n, 18, 8, dtype=torch.bfloat16, requires_grad=True) for n in (*heads, heads[1])
        )
        boundaries = torch.empty(5, dtype=torch.int32)
        rows = {"cu_seq_lens_q": boundaries, "max_length_q": 9, "sliding_window": window}
        windows = []
        monkeypatch.setattr(
            attention,
            "varlen_attn",
            lambda *inputs, **options: windows.append(options["window_size"]) or varlen_attn(*inputs, **options),
        )
        out, _ = varlen_attention(torch.nn.Module(), query, key, value, None, **rows)
        assert windows == [(left, 0)]
        assert out.shape == (1, 18, heads[0], 8)
        out.sum().backward()
        assert [x.grad.shape for x in (query, key, value)] == [x.shape for x in (query, key, value)]
        with pytest.raises(UserError, match=r"drops 10% of its attention scores .* install flash-attn"):
            varlen_attention(torch.nn.Module(), query, key, value, None, dropout=0.1, **rows)


def test_half_precision_passes_the_keys_of_slates_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate is a sequence with more keys than queries; FlashAttention aligns its causal mask at the ends."""
    calls: list[tuple[tuple[int, ...], list[int], tuple[int, int]]] = []

    def recorded(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *bounds: Any, **options: Any) -> Any:
        calls.append((tuple(key.shape), list(bounds[2:]), options["window_size"]))
        return varlen_attn(query, key, value, *bounds, **options)

    monkeypatch.setattr(attention, "varlen_attn", recorded)
    with FakeTensorMode():
        query, key, value = (
            torch.empty(1, heads, 18, 8, dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2)
        )
        bounds = torch.empty(5, dtype=torch.int32)
        rows = {"cu_seq_lens_q": bounds, "max_length_q": 9, "cu_seq_lens_k": bounds, "max_length_k": 13}
        places = torch.empty(30, dtype=torch.int64)
        for window in (None, 10):
            out, _ = varlen_attention(
                torch.nn.Module(), query, key, value, None, sliding_window=window, key_places=places, **rows
            )
            assert out.shape == (1, 18, 4, 8)
            out.sum().backward()
        assert [x.grad.shape for x in (query, key, value)] == [x.shape for x in (query, key, value)]
    assert calls == [((30, 2, 8), [9, 13], (-1, 0)), ((30, 2, 8), [9, 13], (9, 0))]


@pytest.mark.parametrize("window", [None, 4])
def test_half_precision_on_cpu_attends_as_float32_does(window: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    boundaries = torch.tensor([0, 1, 10, 18], dtype=torch.int32)
    rows = {"cu_seq_lens_q": boundaries, "max_length_q": 9, "sliding_window": window}
    whole = [torch.randn(1, heads, 18, 8, generator=generator).bfloat16().float() for heads in (4, 2, 2)]
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [x.clone().to(dtype).requires_grad_() for x in whole]
        out, _ = varlen_attention(torch.nn.Module(), *inputs, None, **rows)
        assert out.dtype == dtype
        out.float().square().sum().backward()
        results.append([out.detach().float(), *(x.grad.float() for x in inputs)])
    for exact, rounded in zip(*results, strict=True):
        torch.testing.assert_close(rounded, exact, rtol=2e-2, atol=2e-2)


def test_the_router_loss_is_that_of_transformers_and_1_when_uniform() -> None:
    logits = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        balance_loss((logits,), top_k=2, context=ALONE) * 2, load_balancing_loss_func((logits,), 4, 2)
    )
    torch.testing.assert_close(balance_loss((torch.zeros(8, 4),) * 3, top_k=4, context=ALONE), torch.tensor(1.0))


def test_each_micro_step_adds_its_share_of_the_router_loss_in_training_only() -> None:
    batch = collate(bins())
    model = small_model(replace(SMALL, router_aux_loss=1.0))

    def router_loss(micro_steps: int) -> torch.Tensor:
        loss, _, sums = model(batch, objective_of(batch, micro_steps=micro_steps), ALONE)
        return loss - sums[0]

    once = router_loss(1)
    once.backward()
    assert model.lm.model.layers[0].mlp.gate.weight.grad.abs().max() > 0
    assert 0.9 < once.item() <= 2.0  # experts / experts_per_token when all tokens go to the same ones
    assert router_loss(4).item() == pytest.approx(once.item() / 4, abs=1e-6)
    model.eval()
    assert router_loss(1).item() == pytest.approx(0.0, abs=1e-6)


def test_building_needs_no_memory_and_keeps_the_global_generator() -> None:
    before = torch.get_rng_state()
    model = build_model(SMALL, SHAPE)
    assert torch.equal(before, torch.get_rng_state())
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_experts_of_a_width_that_grouped_mm_refuses_still_train() -> None:
    batch = collate(bins())
    loss, _, _ = small_model(replace(SMALL, intermediate_size=9))(batch, objective_of(batch), ALONE)
    loss.backward()
    assert loss.isfinite()


DENSE: Mapping[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


def write_config(folder: Path, model_type: str = "llama", **changes: Any) -> ModelConfig:
    AutoConfig.for_model(model_type, **{**DENSE, **changes}).save_pretrained(folder)
    return ModelConfig(init_from=str(folder))


def test_a_dense_half_precision_model_is_trained_in_float32_and_without_a_router(tmp_path: Path) -> None:
    config = write_config(tmp_path, dtype="bfloat16")
    model = build_model(config, SHAPE)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.router_aux_loss == 0.0

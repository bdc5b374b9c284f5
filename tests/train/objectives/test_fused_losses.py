"""The fused losses equal their definition, with PyTorch and with Liger's kernels."""

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from brew_train.objectives import fused_losses as losses
from brew_train.objectives.fused_losses import (
    NO_TARGET,
    fused_cross_entropy,
    token_log_probabilities,
    token_weights,
    uses_liger,
)

LIGER = """
import torch
import torch.nn.functional as F
from brew_train.objectives.fused_losses import NO_TARGET
from brew_train.objectives.fused_losses import fused_cross_entropy
from brew_train.objectives.fused_losses import token_log_probabilities

generator = torch.Generator().manual_seed(0)
hidden = torch.randn(13, 16, generator=generator, requires_grad=True)
head = torch.randn(37, 16, generator=generator, requires_grad=True)
targets = torch.randint(37, (13,), generator=generator)
targets[[3, 12]] = NO_TARGET
weights = torch.rand(13, generator=generator).masked_fill(targets == NO_TARGET, 0.0)

plain = F.cross_entropy(hidden @ head.T, targets, ignore_index=NO_TARGET, reduction="none")
expected = torch.autograd.grad(2 * (plain * weights).sum(), (hidden, head), retain_graph=True)
loss, each = fused_cross_entropy(hidden, head, targets, weights, liger=True)
assert not each.requires_grad
torch.testing.assert_close(loss, (plain * weights).sum())
torch.testing.assert_close(each, plain.detach())
torch.testing.assert_close(torch.autograd.grad(2 * loss, (hidden, head)), expected)

logp = token_log_probabilities(hidden, head, targets, liger=True)
torch.testing.assert_close(logp, -plain)
# squared, so that the weight of a token's gradient is known only in the backward pass
expected = torch.autograd.grad((weights * plain.square()).sum(), (hidden, head))
torch.testing.assert_close(torch.autograd.grad((weights * logp.square()).sum(), (hidden, head)), expected)
with torch.no_grad():
    assert not token_log_probabilities(hidden, head, targets, liger=True).requires_grad
print("equal")
"""


class Sizes(TorchDispatchMode):
    """Records the largest tensor that any operation makes, and the number of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.largest = max(self.largest, *(t.numel() for t in [out] if isinstance(t, torch.Tensor)), 0)
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_)
        return out


def test_the_prompt_term_covers_the_answers_too() -> None:
    # Three prompt targets, one answer target, one position without; the other worker has one of each more. Every target
    # has .2 / 6, an answer target .8 / 2 in addition.
    roles = torch.tensor([0, 0, 0, 1, 0], dtype=torch.uint8)
    targets = torch.tensor([5, 6, 7, 8, NO_TARGET])
    weights = token_weights(roles, targets, torch.tensor([4.0, 2.0]), prompt_weight=0.2)
    torch.testing.assert_close(weights, torch.tensor([1 / 30, 1 / 30, 1 / 30, 1 / 30 + 0.4, 0.0]))


def test_the_weights_of_a_step_add_up_to_one() -> None:
    roles, targets = torch.tensor([0, 0, 1, 0, 1], dtype=torch.uint8), torch.arange(5)
    for prompt_weight in (None, 0.0, 0.01, 0.5, 1.0):
        weights = token_weights(roles, targets, torch.tensor([3.0, 2.0]), prompt_weight)
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


def test_weights_without_roles_are_a_plain_mean() -> None:
    roles, targets = torch.tensor([0, 1, 0], dtype=torch.uint8), torch.tensor([1, 2, NO_TARGET])
    for plain in (None, 1.0):
        weights = token_weights(roles, targets, torch.tensor([3.0, 5.0]), plain)
        torch.testing.assert_close(weights, torch.tensor([0.125, 0.125, 0.0]))


def test_weights_with_answers_only() -> None:
    roles, targets = torch.tensor([0, 1, 1], dtype=torch.uint8), torch.tensor([1, 2, NO_TARGET])
    weights = token_weights(roles, targets, torch.tensor([3.0, 4.0]), 0.0)
    torch.testing.assert_close(weights, torch.tensor([0.0, 0.25, 0.0]))


def test_a_step_without_answers_has_only_its_prompt_term() -> None:
    weights = token_weights(
        torch.tensor([0, 0], dtype=torch.uint8), torch.tensor([1, 2]), torch.tensor([2.0, 0.0]), prompt_weight=0.01
    )
    torch.testing.assert_close(weights, torch.tensor([0.005, 0.005]))


def test_cross_entropy_of_literal_logits() -> None:
    # an identity head makes the hidden states the logits: log(1 + e) nats for the less likely of (1, 0)
    hidden = torch.tensor([[1.0, 0.0], [1.0, 0.0], [3.0, 9.0]])
    loss, each = fused_cross_entropy(
        hidden, torch.eye(2), torch.tensor([1, 0, NO_TARGET]), torch.tensor([0.25, 0.75, 0.0])
    )
    torch.testing.assert_close(each, torch.tensor([1.3132617, 0.3132617, 0.0]))
    torch.testing.assert_close(loss, torch.tensor(0.25 * 1.3132617 + 0.75 * 0.3132617))


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, 40),
    vocabulary=st.integers(2, 30),
    chunk=st.integers(1, 50),
    prompt_weight=st.one_of(st.none(), st.floats(0, 1)),
    seed=st.integers(0, 10_000),
)
def test_loss_and_gradients_equal_the_plain_formula(
    tokens: int, vocabulary: int, chunk: int, prompt_weight: float | None, seed: int
) -> None:
    hidden, head, targets, roles = drawn(tokens, vocabulary, seed)
    valid = targets != NO_TARGET
    plain = F.cross_entropy(hidden @ head.T, targets, ignore_index=NO_TARGET, reduction="none")
    if prompt_weight is None:
        expected = plain.sum() / max(1, int(valid.sum()))
    else:
        # equation 3 of arXiv:2501.16450: L_p over all targets, L_mtc over the answers
        whole, answers = [plain[places].sum() / max(1, int(places.sum())) for places in (valid, valid & (roles == 1))]
        expected = prompt_weight * whole + (1 - prompt_weight) * answers
    expected_gradients = torch.autograd.grad(expected, (hidden, head))

    counts = torch.stack([(valid & (roles == role)).sum() for role in (0, 1)])
    with mock.patch.dict(losses.CHUNK, cpu=chunk):
        loss, each = fused_cross_entropy(hidden, head, targets, token_weights(roles, targets, counts, prompt_weight))
    gradients = torch.autograd.grad(2 * loss, (hidden, head))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(each, plain.detach())
    for ours, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, 2 * reference)


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 40), chunk=st.integers(1, 50), share=st.floats(0, 1), seed=st.integers(0, 10_000))
def test_leaving_out_positions_without_weight_changes_neither_loss_nor_gradients(
    tokens: int, chunk: int, share: float, seed: int
) -> None:
    hidden, head, targets, _ = drawn(tokens, 12, seed)
    weights = torch.rand(tokens, generator=torch.Generator().manual_seed(seed))
    weights = weights.masked_fill((weights < share) | (targets == NO_TARGET), 0.0)  # also: none is left
    with mock.patch.dict(losses.CHUNK, cpu=chunk):
        loss, each = fused_cross_entropy(hidden, head, targets, weights)
        fewer, known = fused_cross_entropy(hidden, head, targets, weights, only_weighted=True)
    torch.testing.assert_close(fewer, loss)
    torch.testing.assert_close(known, torch.where(weights > 0, each, 0.0))
    assert not known.requires_grad
    expected = torch.autograd.grad(3 * loss, (hidden, head))
    for ours, reference in zip(torch.autograd.grad(3 * fewer, (hidden, head)), expected, strict=True):
        torch.testing.assert_close(ours, reference)


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, 40),
    vocabulary=st.integers(2, 30),
    chunk=st.integers(1, 50),
    scale=st.sampled_from([1.0, 30.0]),  # of the hidden states: targets that are nearly sure or nearly impossible
    seed=st.integers(0, 10_000),
)
def test_log_probabilities_and_gradients_equal_the_plain_formula(
    tokens: int, vocabulary: int, chunk: int, scale: float, seed: int
) -> None:
    hidden, head, targets, _ = drawn(tokens, vocabulary, seed, scale=scale)
    plain = -F.cross_entropy(hidden @ head.T, targets, ignore_index=NO_TARGET, reduction="none")
    # no weighted sum: each token's upstream gradient depends on what comes out
    expected = torch.autograd.grad((plain / 10).tanh().sum(), (hidden, head))
    with mock.patch.dict(losses.CHUNK, cpu=chunk):
        logp = token_log_probabilities(hidden, head, targets)
        gradients = torch.autograd.grad((logp / 10).tanh().sum(), (hidden, head))
    torch.testing.assert_close(logp, plain, rtol=1e-5, atol=2e-6 * scale)
    for ours, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=2e-6 * scale)


def drawn(
    tokens: int, vocabulary: int, seed: int, *, scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, head, targets (some without) and roles."""
    generator = torch.Generator().manual_seed(seed)
    hidden = (scale * torch.randn(tokens, 6, generator=generator)).requires_grad_()
    head = torch.randn(vocabulary, 6, generator=generator, requires_grad=True)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    targets[torch.rand(tokens, generator=generator) < 0.2] = NO_TARGET
    return hidden, head, targets, torch.randint(2, (tokens,), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("fused", [True, False])
def test_no_tensor_is_larger_than_a_chunk_of_logits(fused: bool) -> None:
    hidden, head, targets, _ = drawn(64, 50, 0)
    with mock.patch.dict(losses.CHUNK, cpu=8), Sizes() as sizes:
        if fused:
            fused_cross_entropy(hidden, head, targets, torch.full((64,), 0.5))[0].backward()
        else:
            token_log_probabilities(hidden, head, targets).sum().backward()
    assert sizes.largest == 8 * 50  # neither 64 x 50 logits, nor anything as large beside them


@pytest.mark.parametrize("fused", [True, False])
def test_a_frozen_head_has_no_gradient_and_costs_no_product(fused: bool) -> None:
    hidden, head, targets, _ = drawn(64, 50, 0)
    weights = torch.full((64,), 0.5)

    def gradient(head: torch.Tensor) -> tuple[torch.Tensor, int]:
        with mock.patch.dict(losses.CHUNK, cpu=64), Sizes() as sizes:
            loss = fused_cross_entropy(hidden, head, targets, weights)[0] if fused else (
                -weights * token_log_probabilities(hidden, head, targets)).sum()  # fmt: skip
            (found,) = torch.autograd.grad(loss, hidden)
        return found, sizes.products

    expected, products = gradient(head)
    frozen, fewer = gradient(head.detach())
    torch.testing.assert_close(frozen, expected)
    assert fewer == products - 1


def test_only_positions_with_a_weight_are_projected() -> None:
    hidden, head, targets, _ = drawn(64, 50, 0)
    weights = torch.zeros(64)
    weights[[1, 3, 40]] = 0.5
    targets[[1, 3, 40]] = 7
    with mock.patch.dict(losses.CHUNK, cpu=8), Sizes() as sizes:
        fused_cross_entropy(hidden, head, targets, weights, only_weighted=True)[0].backward()
    assert sizes.products == 3  # of one chunk: logits, and the gradients of hidden states and head


def test_without_gradients_each_chunk_is_projected_once() -> None:
    hidden, head, targets, _ = drawn(64, 50, 0)  # both ask for gradients, as a model's weights do in an evaluation
    with torch.no_grad(), mock.patch.dict(losses.CHUNK, cpu=8), Sizes() as sizes:
        loss, each = fused_cross_entropy(hidden, head, targets, torch.full((64,), 0.5))
        logp = token_log_probabilities(hidden, head, targets)
    assert sizes.products == 2 * 64 / 8
    torch.testing.assert_close(loss, 0.5 * each.sum())
    torch.testing.assert_close(logp, -each)


@pytest.mark.skipif(find_spec("liger_kernel") is None, reason="liger-kernel is not installed")
def test_ligers_kernels_give_the_same_losses_and_gradients() -> None:
    """On the CPU Triton's interpreter runs them; it must be requested before Triton is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LIGER], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout == "equal\n", done.stderr


def test_liger_is_for_gpus_only() -> None:
    assert not uses_liger(torch.device("cpu"))

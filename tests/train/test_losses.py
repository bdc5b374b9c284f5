"""The fused, chunked, weighted cross-entropy against its definition."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_train import losses
from brew_train.losses import NO_TARGET, fused_cross_entropy, token_weights


def test_weights_of_a_chat_by_hand() -> None:
    # three prompt targets, one answer target, one position without; the other worker has one of each more
    roles = torch.tensor([0, 0, 0, 1, 0], dtype=torch.uint8)
    targets = torch.tensor([5, 6, 7, 8, NO_TARGET])
    weights = token_weights(roles, targets, torch.tensor([4.0, 2.0]), prompt_weight=0.2)
    torch.testing.assert_close(weights, torch.tensor([0.05, 0.05, 0.05, 0.4, 0.0]))


def test_weights_without_roles_are_a_plain_mean() -> None:
    weights = token_weights(
        torch.tensor([0, 1, 0], dtype=torch.uint8), torch.tensor([1, 2, NO_TARGET]), torch.tensor([3.0, 5.0]), None
    )
    torch.testing.assert_close(weights, torch.tensor([0.125, 0.125, 0.0]))


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
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, 6, generator=generator, requires_grad=True)
    head = torch.randn(vocabulary, 6, generator=generator, requires_grad=True)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    targets[torch.rand(tokens, generator=generator) < 0.2] = NO_TARGET
    roles = torch.randint(2, (tokens,), generator=generator, dtype=torch.uint8)
    valid = targets != NO_TARGET

    plain = F.cross_entropy(hidden @ head.T, targets, ignore_index=NO_TARGET, reduction="none")
    if prompt_weight is None:
        expected = plain.sum() / max(1, int(valid.sum()))
    else:
        means = [plain[valid & (roles == role)].sum() / max(1, int((valid & (roles == role)).sum())) for role in (0, 1)]
        expected = prompt_weight * means[0] + (1 - prompt_weight) * means[1]
    expected_gradients = torch.autograd.grad(expected, (hidden, head))

    counts = torch.stack([(valid & (roles == role)).sum() for role in (0, 1)])
    with mock.patch.dict(losses.CHUNK, cpu=chunk):
        loss, each = fused_cross_entropy(hidden, head, targets, token_weights(roles, targets, counts, prompt_weight))
    gradients = torch.autograd.grad(2 * loss, (hidden, head))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(each, plain.detach())
    for ours, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, 2 * reference)


def test_no_gradient_is_made_where_none_is_wanted() -> None:
    with torch.no_grad():
        loss, _ = fused_cross_entropy(torch.ones(2, 2), torch.eye(2), torch.tensor([0, 1]), torch.tensor([0.5, 0.5]))
    assert loss.item() == pytest.approx(0.6931472)

"""The three schedules: learning rates, bitwise restore of the state, and the average."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from brew_train.config import SCHEDULES, StageConfig
from brew_train.optim.factory import make_optimizer
from brew_train.optim.scheduled import scheduled_rate


def stage(schedule: str) -> StageConfig:
    return StageConfig(
        schedule=schedule, steps=10, warmup_steps=2, learning_rate=0.1, final_learning_rate=0.1, decay_share=0.2
    )


def train(model: nn.Module, optimizer: object, steps: range) -> list[float]:
    losses = []
    for step in steps:
        inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        loss = (model(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()  # type: ignore[attr-defined]
        losses.append(loss.item())
    return losses


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 1))


def test_learning_rates_of_the_schedules() -> None:
    constant, cosine = stage("constant"), stage("cosine")
    # the last two of ten steps (decay_share .2) fall linearly to .1 of the rate
    assert [scheduled_rate(constant, step) for step in range(1, 11)] == pytest.approx(
        [0.05] + [0.1] * 7 + [0.055, 0.01]
    )
    halfway = 0.1 * (0.1 + 0.9 * 0.5)
    assert [scheduled_rate(cosine, step) for step in (1, 2, 6, 10)] == pytest.approx([0.05, 0.1, halfway, 0.01])
    assert scheduled_rate(cosine, 4) == pytest.approx(0.1 * (0.1 + 0.45 * (1 + math.cos(math.pi / 4))))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"decay_share": 0.0}, [0.05] + [0.1] * 9),
        ({"decay_share": 0.5, "final_learning_rate": 0.0}, [0.05] + [0.1] * 4 + [0.08, 0.06, 0.04, 0.02, 0.0]),
        ({"decay_share": 1.0, "final_learning_rate": 0.2}, [0.05, 0.1] + [0.1 - 0.01 * i for i in range(1, 9)]),
        ({"decay_share": 0.2, "warmup_steps": 0}, [0.1] * 8 + [0.055, 0.01]),
        ({"decay_share": 0.9, "warmup_steps": 10}, [0.01 * i for i in range(1, 11)]),  # the warm-up fills the stage
    ],
)
def test_the_constant_schedule_decays_at_its_end(changes: dict[str, float], expected: list[float]) -> None:
    constant = replace(stage("constant"), **changes)
    assert [scheduled_rate(constant, step) for step in range(1, 11)] == pytest.approx(expected)


def test_the_fused_update_equals_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def eight_steps(*, fused: bool) -> torch.Tensor:
        net = model()
        optimizer = make_optimizer(net, stage("cosine"))
        assert bool(optimizer._adam.param_groups[0].get("fused")) == fused
        train(net, optimizer, range(8))
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    expected = eight_steps(fused=True)
    plain = torch.optim.AdamW

    def without_kernel(groups: Any, *, fused: bool = False, **options: Any) -> torch.optim.Optimizer:
        if fused:
            raise RuntimeError("`fused=True` requires all the params to be on a supported device")
        return plain(groups, **options)

    monkeypatch.setattr(torch.optim, "AdamW", without_kernel)
    torch.testing.assert_close(eight_steps(fused=False), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_restored_optimizer_continues_bitwise(schedule: str) -> None:
    whole = model()
    expected = train(whole, make_optimizer(whole, stage(schedule)), range(8))
    assert expected[-1] < expected[0]

    first = model()
    optimizer = make_optimizer(first, stage(schedule))
    train(first, optimizer, range(5))
    tensors = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    scalars = optimizer.scalars()

    second = model()
    restored = make_optimizer(second, stage(schedule))
    for name, tensor in restored.tensors().items():
        tensor.copy_(tensors[name])
    restored.restore_scalars(scalars)
    assert train(second, restored, range(5, 8)) == expected[5:]
    assert restored.learning_rate == pytest.approx(
        0.1 if schedule == "schedule_free" else scheduled_rate(stage(schedule), 8)
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_averaged_holds_the_average_and_restores_the_weights_bitwise(schedule: str) -> None:
    net = model()
    optimizer = make_optimizer(net, stage(schedule))
    train(net, optimizer, range(5))
    before = [p.detach().clone() for p in net.parameters()]
    tensors = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    with optimizer.averaged():
        inside = {name: p.detach().clone() for name, p in net.named_parameters()}
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    for name, weights in inside.items():
        expected = tensors[f"model.{name}"]
        if optimizer.average_weight is not None:
            expected = expected.lerp(tensors[f"z.{name}"], optimizer.average_weight)
        assert torch.equal(weights, expected)
    optimizer.use_average()
    assert all(torch.equal(p, inside[name]) for name, p in net.named_parameters())
    assert (optimizer.average_weight is None) == (schedule != "schedule_free")


def test_dropped_gradients_change_nothing() -> None:
    net = model()
    optimizer = make_optimizer(net, stage("schedule_free"))
    net(torch.ones(1, 6)).sum().backward()
    assert all(gradient.abs().sum() > 0 for gradient in optimizer.gradients()[-2:])
    optimizer.drop_gradients()
    assert optimizer.gradients() == []

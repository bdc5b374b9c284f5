"""Plans of training runs agree with published speeds, GPU-hours and limits of communication."""

import math
from dataclasses import replace

import pytest
from transformers import LlamaConfig

from brew_cluster.capacity.assumptions import TrainingAssumptions
from brew_cluster.capacity.bounds import Bounds
from brew_cluster.capacity.decoder import Decoder
from brew_cluster.capacity.fsdp import estimate_run
from brew_cluster.capacity.training_plan import TRAINING_QUANTITIES, lost_time_curve, training_plan
from brew_cluster.jobs.train import shape_of
from brew_cluster.jobs.train_job import load_job
from brew_train.diagnostics.dry_run_report import DryRun, Gpu
from brew_train.diagnostics.memory_tracker import Memory, Traffic
from brew_train.telemetry.flops import ModelSize

LLAMA_405B = LlamaConfig(
    vocab_size=128_256, hidden_size=16_384, intermediate_size=53_248, num_hidden_layers=126,
    num_attention_heads=128, num_key_value_heads=8,
)  # fmt: skip


def run_of(size: ModelSize, *, gpus: int, tokens: int, length: int, micro_steps: int = 1, sent: Traffic) -> DryRun:
    """A run whose bytes are published, or do not matter."""
    return DryRun(
        gpus=gpus, replicas=1, tokens=tokens, micro_steps=micro_steps, size=size, parameters=0, padding=0, gradients=0,
        optimizer=0, kept=0, peak=Memory(), micro_step=sent, step=sent.times(micro_steps), checkpoint=1,
        flops=tokens * size.flops_per_token(length), gpu=Gpu(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def mixtral() -> DryRun:
    job = load_job("mixtral_8x22b")
    decoder = Decoder.of(job.train.model, shape_of(job))
    return estimate_run(job.train, decoder, gpus=256, context_length=job.context_length)


def plan(run: DryRun, assumed: TrainingAssumptions | None = None, *, tokens: float = 1e12) -> dict[str, Bounds]:
    return training_plan(run, tokens=tokens, checkpoint_every=50, assumed=assumed or TrainingAssumptions())


def test_gpu_hours_of_llama_3_405b() -> None:
    """15.6T tokens (arXiv:2407.21783, section 3.4) at an MFU of 38 to 43% took 30.84M GPU-hours (its model card)."""
    run = run_of(ModelSize.of_config(LLAMA_405B), gpus=16_384, tokens=1_024, length=8_192, sent=Traffic())
    assumed = TrainingAssumptions(mfu=Bounds(0.38, 0.43), failures=Bounds.exact(3.79), recovery=Bounds.exact(900))
    hours = plan(run, assumed, tokens=15.6e12)["GPU-hours"]
    assert hours.low < 30.84e6 < hours.high
    assert hours.high < 1.2 * hours.low


def test_speed_of_a_published_fsdp_run(mixtral: DryRun) -> None:
    """arXiv:2504.14960, tables 1 and 3: Mixtral 8x22B on 128 H100, FSDP with tensor parallelism 8: an MFU of 4.3%.

    Each of the 8 GPUs of a node has a ring of its own over 16 nodes, so each card carries all bytes of its GPU. The 256
    sequences of 4,096 tokens are 16 micro-steps of one sequence; that a micro-step has one sequence is assumed.
    """
    part = mixtral.size.total // 8
    sent = Traffic(all_gather=2 * 2 * part * 15 // 16, reduce_scatter=4 * part * 15 // 16)
    run = run_of(mixtral.size, gpus=128, tokens=4_096 // 8, length=4_096, micro_steps=16, sent=sent)
    assert plan(run)["MFU with communication"].low == pytest.approx(0.043, rel=0.1)


def test_ranges_of_mixtral_8x22b(mixtral: DryRun) -> None:
    figures = plan(mixtral, TrainingAssumptions(price=Bounds(2, 4)))
    assert list(figures) == [quantity.name for quantity in TRAINING_QUANTITIES]
    for name, bounds in figures.items():
        assert bounds.low <= bounds.high, name
    assert figures["communication"].low == pytest.approx(2.8, rel=0.01)  # docs/scale.md
    assert figures["communication"].high == pytest.approx(22.3, rel=0.01)
    assert figures["memory left"].low > 0
    assert figures["tokens/s"].high == pytest.approx(256 * 32_768 / figures["step"].low)
    assert figures["MFU with communication"].high == pytest.approx(0.493)
    assert figures["cost"].high == pytest.approx(4 * figures["GPU-hours"].high)
    assert figures["goodput"].high <= figures["goodput at the best interval"].high + 1e-3
    assert "cost" not in plan(mixtral)


def test_speed_of_one_gpu_is_as_measured() -> None:
    """docs/results/gpu.md, dense: 47,876 tokens/s at an MFU of 31%, 68,104 at 44%; documents of 1,088 tokens."""
    config = LlamaConfig(
        vocab_size=32_768, hidden_size=2_048, intermediate_size=8_192, num_hidden_layers=16, num_attention_heads=16,
        num_key_value_heads=4,
    )  # fmt: skip
    run = run_of(ModelSize.of_config(config), gpus=1, tokens=16_384, length=1_088, sent=Traffic())
    speed = plan(run, TrainingAssumptions(mfu=Bounds(0.31, 0.44)))["tokens/s"]
    assert speed.low == pytest.approx(47_876, rel=0.03)
    assert speed.high == pytest.approx(68_104, rel=0.03)


def test_lost_time_is_least_between_the_ends(mixtral: DryRun) -> None:
    for curve in lost_time_curve(mixtral, [60 * 2**power for power in range(12)], TrainingAssumptions()):
        shares = [share for _, share in curve]
        assert min(shares) < min(shares[0], shares[-1])
        assert all(0 < share < 1 for share in shares)


def test_more_failures_cost_time(mixtral: DryRun) -> None:
    reliable, failing = (plan(mixtral, TrainingAssumptions(failures=Bounds.exact(rate))) for rate in (0.1, 1_000))
    assert failing["time"].low > reliable["time"].low
    assert failing["goodput"].high < reliable["goodput"].high
    hopeless = plan(mixtral, TrainingAssumptions(failures=Bounds.exact(1e9)))
    assert math.isinf(hopeless["time"].high)


def test_a_slower_network_lowers_the_mfu(mixtral: DryRun) -> None:
    slow = replace(mixtral, gpu=replace(mixtral.gpu, bandwidth=mixtral.gpu.bandwidth / 10))
    assert plan(slow)["MFU with communication"].high < plan(mixtral)["MFU with communication"].high

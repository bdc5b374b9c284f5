"""Plans of services agree with published and our own figures, and find the smallest number of replicas."""

import math
from dataclasses import replace

import pytest
from transformers import Qwen3Config

from brew_cluster.capacity.assumptions import ServingAssumptions
from brew_cluster.capacity.bounds import Bounds
from brew_cluster.capacity.decoder import Decoder
from brew_cluster.capacity.serving_plan import NVLINK, SERVING_QUANTITIES, Workload, p99_curve, serving_plan
from brew_cluster.jobs.serve_job import load_serve
from brew_cluster.jobs.train import shape_of
from brew_cluster.jobs.train_job import load_job
from brew_serve.engines.config import EngineConfig
from brew_train.diagnostics.dry_run_report import Gpu
from brew_train.telemetry.flops import ModelSize

MIXTRAL = Workload(rate=20)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    job = load_job("mixtral_8x22b")
    return Decoder.of(job.train.model, shape_of(job))


def plan(
    decoder: Decoder,
    workload: Workload,
    *,
    engine: EngineConfig | None = None,
    gpu: Gpu | None = None,
    **assumed: Bounds,
) -> dict[str, Bounds]:
    return serving_plan(
        decoder, engine or load_serve(["h100"]).engine, workload,
        gpu=gpu or Gpu(), nvlink=NVLINK, assumed=ServingAssumptions(**assumed),
    )  # fmt: skip


def test_memory_of_mixtral_8x22b_in_fp8(decoder: Decoder) -> None:
    """As recipes/serve_h100.yaml says: 35 GB of weights on each of four GPUs, and about 30 GB left for the cache."""
    gpu = Gpu(memory=80e9)
    figures = plan(decoder, MIXTRAL, gpu=gpu)
    assert figures["weights"].high / 1e9 == pytest.approx(35.2, abs=0.2)
    bytes_per_token = 2 * 56 * 8 * 128 * 2 / 4
    assert figures["keys and values"].high * bytes_per_token / 1e9 == pytest.approx(30, abs=3)
    bfloat16 = replace(load_serve(["h100"]).engine, quantization=None)
    unquantized = plan(decoder, MIXTRAL, engine=bfloat16, gpu=gpu)
    assert unquantized["weights"].high / 1e9 == pytest.approx(281.2 / 4, rel=0.01)  # the size of the published weights
    assert unquantized["keys and values"].high == 0  # they exceed the 68 GB of the engine


def test_throughput_of_a_published_scorer() -> None:
    """Pull request 9748 of sgl-project/sglang: Qwen3 0.6B, 300 tokens: 1,000 items/s on an H100 within 500 ms."""
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=1_024, intermediate_size=3_072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    )  # fmt: skip
    head = 151_936 * 1_024
    size = ModelSize.of_config(config)
    qwen = Decoder(
        size=size, layers=28, layer_parameters=(size.total - head) // 28, root_parameters=head, head_parameters=head,
        hidden=1_024, key_value=8 * 128, experts_per_token=1, inner=3_072, matrices=frozenset(),
    )  # fmt: skip
    workload = Workload(rate=100, candidates=10, prefix_tokens=1, cached=1.0, candidate_tokens=300)
    figures = plan(qwen, workload, engine=EngineConfig(dtype="bfloat16"))
    assert figures["candidates/s of a replica"].low < 1_000 < figures["candidates/s of a replica"].high


def test_the_plan_has_all_quantities(decoder: Decoder) -> None:
    figures = plan(decoder, MIXTRAL, price=Bounds(2, 4))
    assert list(figures) == [quantity.name for quantity in SERVING_QUANTITIES]
    for name, bounds in figures.items():
        assert bounds.low <= bounds.high, name
    assert figures["p99"].high <= 0.5
    assert figures["GPUs"].high == 4 * (figures["replicas"].high + 1)
    assert figures["cost per hour"].high == pytest.approx(4 * figures["GPUs"].high)
    assert not any(name.startswith("cost") for name in plan(decoder, MIXTRAL))


def test_more_requests_need_more_replicas_and_cached_prefixes_fewer(decoder: Decoder) -> None:
    few, many = (plan(decoder, replace(MIXTRAL, rate=rate))["replicas"] for rate in (5.0, 500.0))
    assert few.high < many.low
    cached = plan(decoder, replace(MIXTRAL, rate=500.0, cached=0.9))
    assert cached["replicas"].high < many.high
    assert cached["tokens per request"].high == pytest.approx(60 + 2_400)


def test_a_measured_time_replaces_the_formulas(decoder: Decoder) -> None:
    figures = plan(decoder, MIXTRAL, work=Bounds.exact(0.1))
    assert figures["work per request"] == Bounds(0.1, 0.1)
    assert figures["candidates/s of a replica"].low == pytest.approx(1_000)


def test_limits_that_no_number_of_replicas_reaches(decoder: Decoder) -> None:
    assert math.isinf(plan(decoder, replace(MIXTRAL, limit=0.03))["replicas"].high)
    overloaded = plan(decoder, replace(MIXTRAL, rate=10_000, replicas=1))
    assert math.isinf(overloaded["p99"].low)


def test_p99_falls_with_the_replicas(decoder: Decoder) -> None:
    for curve in p99_curve(plan(decoder, MIXTRAL), MIXTRAL, ServingAssumptions()):
        times = [seconds for _, seconds in curve]
        assert times == sorted(times, reverse=True)

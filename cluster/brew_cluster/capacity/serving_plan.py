"""The plan of a service: memory of a replica, seconds per request, replicas for a rate and a p99, and cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from brew_cluster.capacity.assumptions import ServingAssumptions
from brew_cluster.capacity.bounds import Bounds, Quantity, span
from brew_cluster.capacity.decoder import Decoder
from brew_cluster.capacity.queueing import response_quantile, servers_for
from brew_platform.settings import PositiveFloat, PositiveInt, Range, Seconds, Settings, Share
from brew_serve.engines.config import EngineConfig
from brew_train.diagnostics.dry_run_report import Gpu

__all__ = ["NVLINK", "SERVING_QUANTITIES", "Workload", "p99_curve", "serving_plan"]

QUEUE = "M/G/c approximation of Allen-Cunneen (Allen 1990); replicas share one queue"
NVLINK = 450e9  # bytes/s of one H100 in each direction (NVIDIA's data sheet: 900 GB/s for both)
FP8_SPEEDUP = Bounds(1.26, 1.30)  # over bfloat16 on H100, Mixtral 8x22B (arXiv:2504.14960, table 2)

SERVING_QUANTITIES: Sequence[Quantity] = (
    Quantity(name="requests/s", unit="requests/s", formula="of the workload", source="--rate"),
    Quantity(
        name="tokens per request", unit="tokens", formula="(1 - cached) · prefix + candidates · candidate's tokens",
        source="the prefix is computed once for all candidates (docs/serving.md)",
    ),
    Quantity(name="weights", unit="bytes", formula="parameters · bytes / tensor parallel", source="on each GPU"),
    Quantity(
        name="keys and values", unit="tokens", formula="(engine's memory - weights - activations) / bytes of a token",
        source="2 · layers · key heads · head size · 2 bytes per token; vLLM, arXiv:2309.06180, section 3",
    ),
    Quantity(
        name="computation", unit="s", formula="forward FLOPs / (MFU · peak · GPUs of a replica)",
        source="PaLM, arXiv:2204.02311, appendix B; MFU of prefill: arXiv:2211.05102, section 4",
    ),
    Quantity(
        name="communication", unit="s", formula="2 · layers · all-reduce of tokens · hidden · 2 bytes / NVLink",
        source="Megatron-LM, Shoeybi et al. 2019, arXiv:1909.08053, section 3",
    ),
    Quantity(name="work per request", unit="s", formula="computation + communication, or as measured", source="-"),
    Quantity(name="candidates/s of a replica", unit="candidates/s", formula="candidates / work", source="at full load"),
    Quantity(name="replicas", unit="replicas", formula="the smallest number with p99 within the limit", source=QUEUE),
    Quantity(name="replicas, one spare", unit="replicas", formula="replicas + 1", source="one may be lost"),
    Quantity(name="GPUs", unit="GPUs", formula="(replicas + 1) · GPUs of a replica", source="-"),
    Quantity(name="utilization", unit="share", formula="requests/s · work / replicas", source="-"),
    Quantity(name="p50", unit="s", formula="waiting + work + time outside the engine", source=QUEUE),
    Quantity(name="p99", unit="s", formula="the same", source=QUEUE),
    Quantity(name="candidates/s", unit="candidates/s", formula="requests/s · candidates", source="-"),
    Quantity(name="tokens/s", unit="tokens/s", formula="requests/s · tokens per request", source="-"),
    Quantity(name="cost per hour", unit="currency", formula="GPUs · price", source="--price"),
    Quantity(name="cost of a million candidates", unit="currency", formula="cost per hour / candidates", source="-"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Workload(Settings):
    """The requests of a service. The defaults are workload R of docs/results/serving.md.

    Raises:
        ConfigError: A number is out of range.
    """

    rate: PositiveFloat  # requests per second
    candidates: PositiveInt = 100  # of each request
    prefix_tokens: PositiveInt = 600  # profile and history, which all candidates share
    candidate_tokens: PositiveInt = 24
    cached: Share = 0.0  # share of the prefix tokens that the replica has in its cache
    spread: Annotated[float, Range(ge=0, le=10)] = 0.2  # standard deviation of the work / its mean
    limit: Seconds = 0.5  # seconds that 99% of the requests may take
    replicas: PositiveInt | None = None  # None: the smallest number within the limit


def serving_plan(
    decoder: Decoder, engine: EngineConfig, workload: Workload, *, gpu: Gpu, nvlink: float, assumed: ServingAssumptions
) -> dict[str, Bounds]:
    """Return the plan of a service: the range of each of `SERVING_QUANTITIES`. Costs are left out without a price.

    Args:
        decoder: Sizes of the model.
        engine: Settings of the engine of a replica.
        workload: The requests.
        gpu: The GPUs of a replica.
        nvlink: Bytes/s between two of them, in one direction.
        assumed: The assumptions.
    """
    best, worst = (
        _figures(decoder, engine, workload, gpu, nvlink, assumed, optimistic) for optimistic in (True, False)
    )
    plan = span(best, worst)
    if assumed.price is None:
        plan = {name: bounds for name, bounds in plan.items() if not name.startswith("cost")}
    return plan


def p99_curve(
    plan: Mapping[str, Bounds], workload: Workload, assumed: ServingAssumptions
) -> list[list[tuple[float, float]]]:
    """Return p99 in seconds by number of replicas, for the shortest and the longest work per request."""
    work, outside = plan["work per request"], assumed.outside
    most = math.ceil(workload.rate * work.high) + 10
    return [
        [
            (count, response_quantile(0.99, workload.rate, count, seconds, workload.spread) + extra)
            for count in range(math.floor(workload.rate * seconds) + 1, most + 1, max(1, most // 30))
        ]
        for seconds, extra in ((work.low, outside.low), (work.high, outside.high))
    ]


def _figures(
    decoder: Decoder,
    engine: EngineConfig,
    workload: Workload,
    gpu: Gpu,
    nvlink: float,
    assumed: ServingAssumptions,
    optimistic: bool,
) -> dict[str, float]:
    """Return each quantity under the optimistic or the pessimistic assumptions."""

    def pick(bounds: Bounds, *, high: bool) -> float:
        return bounds.high if high == optimistic else bounds.low

    split = engine.tensor_parallel_size
    tokens, flops = _request(decoder, workload)
    speedup = pick(FP8_SPEEDUP, high=True) if engine.quantization else 1.0
    peak = gpu.float32_flops if engine.dtype == "float32" else gpu.flops
    computation = flops / (pick(assumed.mfu, high=True) * peak * split * speedup)
    # the output of attention and of the feed-forward layer, in each layer
    sent = 2 * decoder.layers * 2 * (split - 1) / split * tokens * decoder.hidden * 2
    communication = sent / nvlink
    work = pick(assumed.work, high=False) if assumed.work else computation + communication
    outside = pick(assumed.outside, high=False)
    replicas: float = workload.replicas or servers_for(
        workload.limit - outside, 0.99, workload.rate, work, workload.spread
    )

    def response(share: float) -> float:
        if math.isinf(replicas):
            return math.inf
        return response_quantile(share, workload.rate, int(replicas), work, workload.spread) + outside

    gpus = (replicas + 1) * split
    price = pick(assumed.price, high=False) if assumed.price else 0.0
    candidates = workload.rate * workload.candidates
    weights = _weight_bytes(decoder, engine) / split
    return {
        "requests/s": workload.rate,
        "tokens per request": tokens,
        "weights": weights,
        "keys and values": _cache_tokens(decoder, engine, gpu, weights),
        "computation": computation,
        "communication": communication,
        "work per request": work,
        "candidates/s of a replica": workload.candidates / work,
        "replicas": replicas,
        "replicas, one spare": replicas + 1,
        "GPUs": gpus,
        "utilization": workload.rate * work / replicas,
        "p50": response(0.50),
        "p99": response(0.99),
        "candidates/s": candidates,
        "tokens/s": workload.rate * tokens,
        "cost per hour": gpus * price,
        "cost of a million candidates": gpus * price / (candidates * 3_600) * 1e6,
    }


def _request(decoder: Decoder, workload: Workload) -> tuple[float, float]:
    """Return the tokens that a request computes, and their FLOPs.

    `flops_per_token` takes the length of a document, of which a token sees half on average: a candidate's tokens see
    the prefix and half of the candidate; tokens of the prefix that are not cached see the cached ones and half of the
    others. The head is computed for the last token of each candidate only.
    """
    fresh = (1 - workload.cached) * workload.prefix_tokens
    scored = workload.candidates * workload.candidate_tokens
    seen_by_fresh = 2 * (workload.prefix_tokens - fresh) + fresh
    seen_by_scored = 2 * workload.prefix_tokens + workload.candidate_tokens
    flops = fresh * decoder.size.flops_per_token(seen_by_fresh, training=False)
    flops += scored * decoder.size.flops_per_token(seen_by_scored, training=False)
    without_head = fresh + scored - workload.candidates
    return fresh + scored, flops - 2 * without_head * decoder.head_parameters


def _weight_bytes(decoder: Decoder, engine: EngineConfig) -> float:
    """Return the bytes of the weights of a replica; with fp8, embeddings and head keep the compute dtype."""
    width = 4 if engine.dtype == "float32" else 2
    if engine.quantization is None:
        return decoder.size.total * width
    return decoder.size.total - decoder.root_parameters + decoder.root_parameters * width


def _cache_tokens(decoder: Decoder, engine: EngineConfig, gpu: Gpu, weights: float) -> float:
    """Return the tokens whose keys and values fit into a replica; 0 if the weights do not fit.

    Args:
        weights: Bytes of the weights on each GPU.
    """
    width = 4 if engine.dtype == "float32" else 2
    split = engine.tensor_parallel_size
    bytes_per_token = decoder.key_value_bytes(width) / split
    if engine.kv_cache_bytes is not None:
        return engine.kv_cache_bytes / bytes_per_token
    routed = decoder.experts_per_token
    # the widest tensors of a layer: gate, up and their product, and the hidden states of each expert
    activations = (
        engine.max_num_batched_tokens * width * (3 * routed * decoder.inner / split + (routed + 4) * decoder.hidden)
    )
    return max(0.0, gpu.memory * engine.gpu_memory_utilization - weights - activations) / bytes_per_token

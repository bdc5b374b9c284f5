"""`make bench-serve`: measures ranking over HTTP and prints the comparison.

The functions are in the order of execution.

make bench-serve                                  everything (about an hour); run nothing else meanwhile
make bench-serve ARGS="--models demo --workloads R"
"""

import argparse
import asyncio
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import torch
from bench.serve.floor import SinglePassScorer
from bench.serve.load import Timing, at_once, at_random, items_per_second
from bench.serve.result import STAGES, Result, figures, table
from bench.serve.servers import VLLM_BEST, our_service, vllm_server
from bench.serve.workload import WORKLOADS, Request, RequestMaker, write_random_version
from prometheus_client.parser import text_string_to_metric_families

from brew_platform.errors import BrewError
from brew_platform.processes import become_subreaper, guard_descendants, kill_descendants
from brew_platform.provenance import source_commit
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store
from brew_serve.engines.config import EngineConfig
from brew_serve.version import load_version

ROOT = Path(__file__).parents[2]
OUT = ROOT / "bench" / "out"
MODELS = ("demo", "random")


def main() -> None:
    options = _options()
    become_subreaper()
    if os.getloadavg()[0] > 1:
        print("The machine is busy with other processes, so the timings will be wrong.")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    work = OUT / "serve-work"
    shutil.rmtree(work, ignore_errors=True)
    result = Result(OUT / "serve.json", commit=source_commit(ROOT))
    try:
        with guard_descendants():  # if this process is killed, the servers must end
            demo = _demo_version(options.registry, work)
            for model in options.models:
                folder = demo
                if model == "random":
                    folder = work / "random-version"
                    parameters = write_random_version(folder, like=load_version(demo))
                    print(f"random: {parameters:,} parameters")
                measure_model(model, folder, work / model, result, options)
    except KeyboardInterrupt:
        print("\ninterrupted; what was finished is kept")
        sys.exit(130)
    except BrewError as error:
        sys.exit(f"error: {error}")
    finally:
        kill_descendants()
        if result.models:
            print(f"\n{table(result)}\n\n{result.path}")


def measure_model(model: str, folder: Path, work: Path, result: Result, options: argparse.Namespace) -> None:
    """Measure all contenders on one model.

    All of them run at the same time and get each request one after another, in an order that rotates, so a drift of
    the machine's speed affects all of them.
    """
    work.mkdir(parents=True)
    version = load_version(folder, EngineConfig())
    with ExitStack() as up:
        began = time.perf_counter()
        urls = {
            "ours": up.enter_context(our_service(folder, work)),
            "vllm_best": up.enter_context(vllm_server(folder, VLLM_BEST, work / "vllm-best.log")),
            "vllm_default": up.enter_context(vllm_server(folder, [], work / "vllm-default.log")),
        }
        floor = SinglePassScorer(folder)
        print(f"{model}: all contenders started in {time.perf_counter() - began:.0f} s", flush=True)
        for name in options.workloads:
            maker = RequestMaker(version, WORKLOADS[name])
            part = asyncio.run(measure_workload(maker, urls, floor, options))
            result.put(model, name, part)
            print(f"{model}, workload {name}: {part['items_per_second']:,.0f} items/s", flush=True)


async def measure_workload(
    maker: RequestMaker, urls: dict[str, str], floor: SinglePassScorer, options: argparse.Namespace
) -> dict[str, Any]:
    """Measure single requests, concurrent callers, their scores, and random arrivals at 70% of the throughput."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=120, trust_env=False, limits=limits) as http:
        clients = {name: _client(http, name, url) for name, url in urls.items()}
        successes: list[bool] = []

        def send(name: str) -> Callable[[Request], Awaitable[bool]]:
            async def send_request(request: Request) -> bool:
                ok = await clients[name](request) is not None
                if name == "ours":
                    successes.append(ok)
                elif not ok:
                    raise RuntimeError(f"{name} did not respond")
                return ok

            return send_request

        for request in maker.make(3):  # warm-up; the first batch of a server is slow
            for name in clients:
                await clients[name](request)
            floor.score(request)

        alone: dict[str, list[float]] = {name: [] for name in (*clients, "floor")}
        stages: dict[str, list[float]] = {name: [] for name in STAGES}
        agreement = dict.fromkeys(clients, 0.0)
        for index, request in enumerate(maker.make(options.requests)):
            scores: dict[str, list[float] | None] = {}
            before = await _stage_seconds(http, urls["ours"])
            for name in _rotated([*clients, "floor"], index):
                began = time.perf_counter()
                scores[name] = floor.score(request) if name == "floor" else await clients[name](request)
                alone[name].append(time.perf_counter() - began)
            after = await _stage_seconds(http, urls["ours"])
            for name in STAGES:
                stages[name].append(after[name] - before[name])
            for name in agreement:
                agreement[name] = max(agreement[name], _difference(name, scores[name], scores["floor"]))

        concurrent = maker.make(options.requests)
        under_load: dict[int, list[float] | None] = {}

        async def keep_scores(index: int) -> bool:
            under_load[index] = await clients["ours"](concurrent[index])
            return under_load[index] is not None

        await at_once(keep_scores, range(len(concurrent)), clients=options.clients)
        agreement_under_load = max(
            _difference("ours", under_load[i], floor.score(request)) for i, request in enumerate(concurrent)
        )

        capacity: dict[str, list[float]] = {name: [] for name in clients}
        # A round is long compared with its start and end.
        in_round = max(options.requests, round(options.seconds / median(alone["ours"])))
        for index in range(options.rounds):
            requests = maker.make(in_round)
            for name in _rotated(list(clients), index):
                timings = await at_once(send(name), requests, clients=options.clients)
                capacity[name].append(items_per_second(timings, maker.sizes.candidates))
        rate = 0.7 * median(capacity["ours"]) / maker.sizes.candidates
        at_70: list[Timing] = await at_random(send("ours"), maker.make(options.arrivals), rate=rate, seed=1)
    return {
        **figures(
            alone=alone,
            stages=stages,
            capacity=capacity,
            at_70=at_70,
            agreement=max(agreement["ours"], agreement_under_load),
            errors=successes.count(False),
        ),
        "alone_seconds": alone,
        "stage_seconds": stages,
        "capacity_items_per_second": capacity,
        "agreement": agreement,
        "agreement_under_load": agreement_under_load,
        "rate_at_70": rate,
        "requests_in_round": in_round,
        "clients": options.clients,
        "sizes": vars(maker.sizes),
    }


def _client(http: httpx.AsyncClient, name: str, url: str) -> Callable[[Request], Awaitable[list[float] | None]]:
    """Return a function that requests the scores of the candidates, in order; None if the service fails."""
    path, ours = ("/v1/rank", True) if name == "ours" else ("/generative_scoring", False)

    async def score(request: Request) -> list[float] | None:
        body = request.rank if ours else request.scoring
        try:
            response = await http.post(url + path, content=body, headers={"content-type": "application/json"})
        except httpx.HTTPError:
            return None
        if not response.is_success:
            return None
        content = response.json()
        if not ours:
            return [item["score"] for item in content["data"]]
        scores = {item["id"]: item["probabilities"][request.action] for item in content["ranking"]}
        return [scores[f"c{i}"] for i in range(len(scores))]

    return score


async def _stage_seconds(http: httpx.AsyncClient, url: str) -> dict[str, float]:
    """Return the total time that our service has spent in each stage of its requests, in seconds."""
    families = text_string_to_metric_families((await http.get(f"{url}/metrics")).text)
    seconds = dict.fromkeys(STAGES, 0.0)
    for sample in (sample for family in families for sample in family.samples):
        if sample.name == "brew_stage_seconds_sum" and sample.labels["stage"] in seconds:
            seconds[sample.labels["stage"]] += sample.value
    return seconds


def _rotated(names: list[str], turn: int) -> list[str]:
    """Return `names`, beginning with another one each turn, so that no contender is always first."""
    start = turn % len(names)
    return [*names[start:], *names[:start]]


def _difference(name: str, actual: list[float] | None, expected: list[float] | None) -> float:
    """Return the largest difference of a candidate's score."""
    if actual is None or expected is None:
        raise RuntimeError(f"{name} did not respond")
    return max(abs(a - b) for a, b in zip(actual, expected, strict=True))


def _demo_version(registry: str, work: Path) -> Path:
    """Download the version that the demo promoted."""
    versions = Registry(open_store(registry), "brew360")
    return versions.fetch(versions.resolve("production"), work / "versions")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--registry", default="runs/registry", help="registry that `make demo` published to; default: %(default)s"
    )
    parser.add_argument(
        "--models", default=",".join(MODELS), help="comma-separated: demo, random; default: %(default)s"
    )
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="comma-separated: R, S; default: %(default)s")
    for name, default, text in (
        ("requests", 12, "single requests, and minimum of requests per round"),
        ("rounds", 5, "number of rounds; every server gets the same requests in a round"),
        ("seconds", 4, "seconds that our service would take for a round's requests, one at a time"),
        ("clients", 4, "concurrent callers in a round"),
        ("arrivals", 2_000, "number of requests at 70%% of capacity; fewer do not show the 99th percentile"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text}; default: %(default)s")
    options = parser.parse_args()
    for name, known in (("models", MODELS), ("workloads", tuple(WORKLOADS))):
        chosen = getattr(options, name).split(",")
        if unknown := [value for value in chosen if value not in known]:
            parser.error(f"--{name} has unknown values {', '.join(unknown)}; known are {', '.join(known)}")
        setattr(options, name, chosen)
    return options


if __name__ == "__main__":
    main()

"""`make bench-serve`: measures ranking over HTTP and prints the comparison. Top to bottom, this is the protocol.

make bench-serve                                  everything (about 30 minutes); nothing else may run beside it
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
from bench.serve.result import Result, figures, table
from bench.serve.servers import VLLM_BEST, our_service, vllm_server
from bench.serve.workload import WORKLOADS, Request, RequestMaker, write_random_version

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
        print("The machine is busy: something else is running, and the timings will be worth nothing.")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    work = OUT / "serve-work"
    shutil.rmtree(work, ignore_errors=True)
    result = Result(OUT / "serve.json", commit=source_commit(ROOT))
    try:
        with guard_descendants():  # should this be killed, the servers must not run on
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
    """All contenders up at once on one model: each request goes to one after the other, so drift meets them all."""
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
        print(f"{model}: all contenders are up after {time.perf_counter() - began:.0f} s", flush=True)
        for name in options.workloads:
            maker = RequestMaker(version, WORKLOADS[name])
            part = asyncio.run(measure_workload(maker, urls, floor, options))
            result.put(model, name, part)
            print(f"{model}, workload {name}: {part['items_per_second']:,.0f} items/s", flush=True)


async def measure_workload(
    maker: RequestMaker, urls: dict[str, str], floor: SinglePassScorer, options: argparse.Namespace
) -> dict[str, Any]:
    """One request at a time; then several callers; then random arrivals at 70% of what those showed."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=120, trust_env=False, limits=limits) as http:
        asks = {name: _ask(http, name, url) for name, url in urls.items()}
        answered: list[bool] = []

        def send(name: str) -> Callable[[Request], Awaitable[bool]]:
            async def one(request: Request) -> bool:
                ok = await asks[name](request) is not None
                if name == "ours":
                    answered.append(ok)
                elif not ok:
                    raise RuntimeError(f"{name} did not answer")
                return ok

            return one

        for request in maker.make(3):  # warm-up; the first batch of a server is slow
            for name in asks:
                await asks[name](request)
            floor.score(request)

        alone: dict[str, list[float]] = {name: [] for name in (*asks, "engine", "floor")}
        agreement = dict.fromkeys(asks, 0.0)
        for request in maker.make(options.requests):
            scores: dict[str, list[float] | None] = {}
            engine = await _engine_seconds(http, urls["ours"])
            for name in (*asks, "floor"):
                began = time.perf_counter()
                scores[name] = floor.score(request) if name == "floor" else await asks[name](request)
                alone[name].append(time.perf_counter() - began)
            alone["engine"].append(await _engine_seconds(http, urls["ours"]) - engine)
            for name in agreement:
                found, wanted = scores[name], scores["floor"]
                if found is None or wanted is None:
                    raise RuntimeError(f"{name} did not answer")
                agreement[name] = max(agreement[name], *(abs(a - b) for a, b in zip(found, wanted, strict=True)))

        capacity: dict[str, list[float]] = {name: [] for name in asks}
        in_round = max(options.requests, round(options.seconds / median(alone["ours"])))  # long against start and end
        for _ in range(options.rounds):
            requests = maker.make(in_round)
            for name in asks:
                timings = await at_once(send(name), requests, clients=options.clients)
                capacity[name].append(items_per_second(timings, maker.sizes.candidates))
        rate = 0.7 * median(capacity["ours"]) / maker.sizes.candidates
        at_70: list[Timing] = await at_random(send("ours"), maker.make(options.arrivals), rate=rate, seed=1)
    return {
        **figures(
            alone=alone, capacity=capacity, at_70=at_70, agreement=agreement["ours"], errors=answered.count(False)
        ),
        "alone_seconds": alone,
        "capacity_items_per_second": capacity,
        "agreement": agreement,
        "rate_at_70": rate,
        "requests_in_round": in_round,
        "clients": options.clients,
        "sizes": vars(maker.sizes),
    }


def _ask(http: httpx.AsyncClient, name: str, url: str) -> Callable[[Request], Awaitable[list[float] | None]]:
    """Asks one service for the scores of a request's candidates, in their order; None where it does not answer."""
    path, ours = ("/v1/rank", True) if name == "ours" else ("/generative_scoring", False)

    async def ask(request: Request) -> list[float] | None:
        body = request.rank if ours else request.scoring
        try:
            answer = await http.post(url + path, content=body, headers={"content-type": "application/json"})
        except httpx.HTTPError:
            return None
        if not answer.is_success:
            return None
        found = answer.json()
        if not ours:
            return [one["score"] for one in found["data"]]
        scores = {one["id"]: one["probabilities"][request.action] for one in found["ranking"]}
        return [scores[f"c{i}"] for i in range(len(scores))]

    return ask


async def _engine_seconds(http: httpx.AsyncClient, url: str) -> float:
    """Seconds that our service has waited for its engine since it was started."""
    lines = (await http.get(f"{url}/metrics")).text.splitlines()
    wanted = [line for line in lines if line.startswith("brew_stage_seconds_sum{") and 'stage="score"' in line]
    return sum(float(line.split()[-1]) for line in wanted)


def _demo_version(registry: str, work: Path) -> Path:
    """The version that the demo promoted, fetched and verified."""
    found = Registry(open_store(registry), "brew360")
    return found.fetch(found.resolve("production"), work / "versions")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--registry", default="runs/registry", help="where `make demo` published; default: %(default)s")
    parser.add_argument("--models", default=",".join(MODELS), help="a list of demo, random; default: %(default)s")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="a list of R, S; default: %(default)s")
    for name, default, text in (
        ("requests", 12, "requests one at a time, and at least so many in each round"),
        ("rounds", 5, "rounds in which every server gets the same requests"),
        ("seconds", 4, "seconds that our service would take for a round's requests one at a time"),
        ("clients", 4, "callers at a time in a round"),
        ("arrivals", 150, "requests at 70%% of capacity"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text}; default: %(default)s")
    options = parser.parse_args()
    for name, known in (("models", MODELS), ("workloads", tuple(WORKLOADS))):
        chosen = getattr(options, name).split(",")
        if unknown := [one for one in chosen if one not in known]:
            parser.error(f"--{name} does not know {', '.join(unknown)}; it knows {', '.join(known)}")
        setattr(options, name, chosen)
    return options


if __name__ == "__main__":
    main()

"""The benchmarks: their figures, and a check that all training contenders train the same model on the same bins."""

import asyncio
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bench.prompts.__main__ import history_figures, make_compiler
from bench.serve.load import Timing, at_once, at_random, items_per_second, percentile
from bench.serve.result import FIGURES as SERVE_FIGURES
from bench.serve.result import figures as serve_figures
from bench.serve.workload import WORKLOADS, RequestMaker, write_random_version
from bench.train.__main__ import blocked
from bench.train.contenders import CONTENDERS, DEFAULT, OPPONENTS, SWEEP, median_speed, run_contender, run_module, speed
from bench.train.job import Job
from bench.train.recovery import bitwise_kills, plan_kills, recoveries
from bench.train.result import FIGURES, Result, table
from bench.train.workload import CONTEXT, LONGEST, SHORTEST, VOCABULARY, make_workload

from brew_data.prompts.suite import load_suite
from brew_platform.provenance import machine
from brew_serve.version import load_version


def row(step: int, *, attempt: str = "a", time: float = 0.0, loss: float = 1.0, **fields: Any) -> dict[str, Any]:
    return {"attempt": attempt, "time": time, "step": step, "loss": loss, "tokens": 100, **fields}


def event(kind: str, attempt: str, time: float, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "attempt": attempt, "time": time, **fields}


def test_speed_counts_everything_between_the_end_of_the_warm_up_and_the_last_step() -> None:
    answer = {"ends": [5.0, 7.0, 8.0, 10.5], "tokens": [1000, 100, 200, 300]}
    assert speed(answer, warmup=1) == 600 / 5.5
    assert speed(answer, warmup=2) == 500 / 3.5
    for warmup in (0, 4):
        with pytest.raises(ValueError, match=f"4 steps with a warm-up of {warmup} leave nothing"):
            speed(answer, warmup=warmup)
    assert median_speed([{"a": 3.0}, {"a": 1.0, "b": 9.0}, {"a": 2.0}], "a") == 2.0
    assert median_speed([{"a": 3.0}], "b") is None


def test_blocked_share_is_taken_over_whole_intervals() -> None:
    # checkpoints are written after steps 3, 6 and 9; the row after one tells how long it blocked
    waits = {1: 7.0, 4: 0.25, 5: 0.05, 7: 0.15, 10: 9.0}
    rows = [row(step, time=10.0 * step, checkpoint_blocked_seconds=waits.get(step, 0.0)) for step in range(1, 11)]
    found = blocked(rows, interval=3)
    assert found["share"] == pytest.approx((0.25 + 0.05 + 0.15) / 60)
    assert found["blocked_seconds"] == [0.25, 0.15]
    assert found["interval_seconds"] == 30.0
    assert found["tokens_per_second"] == 10.0


def test_prompts_of_512_tokens_show_at_least_5_turns_of_64_tokens() -> None:
    figures = history_figures(make_compiler(), interactions=80)
    assert figures["turn_tokens"] == 64
    assert figures["hop_in_tokens"]["without_history"] == 0
    assert figures["hop_in_tokens"]["least_turns_of_5"] == 5
    assert figures["hop_in_turns"]["without_history"] > 0.6
    assert figures["hop_in_turns"]["least_turns_of_5"] == 0


def test_the_plan_of_kills_is_random_spread_and_repeatable() -> None:
    plan = plan_kills(20, steps=600, checkpoint_every=20, seed=0)
    assert plan == plan_kills(20, steps=600, checkpoint_every=20, seed=0)
    assert plan != plan_kills(20, steps=600, checkpoint_every=20, seed=1)
    assert {kind: sum(kill.kind == kind for kill in plan) for kind in ("step", "checkpoint", "restart")} == {
        "step": 12,
        "checkpoint": 4,
        "restart": 4,
    }
    timed = [kill.step for kill in plan if kill.kind == "step"]
    assert timed == sorted(set(timed))
    assert 1 <= timed[0] < 150
    assert 450 < timed[-1] <= 590
    assert all(kill.step % 20 == 0 or kill.step == 590 for kill in plan if kill.kind == "checkpoint")
    with pytest.raises(ValueError, match="20 steps are too few for 20 kills; give at least 42"):
        plan_kills(20, steps=20, checkpoint_every=20, seed=0)


def test_recovery_ends_with_a_step_that_no_attempt_had_done() -> None:
    events = [
        event("attempt", "a", 0.0, checked_seconds=0.0), event("ready", "a", 2.0),
        event("attempt", "b", 25.5, checked_seconds=0.5), event("ready", "b", 26.0),
        event("attempt", "c", 60.25, checked_seconds=0.25), event("ready", "c", 61.5),
    ]  # fmt: skip
    rows = [
        row(1, time=3.0), row(2, time=4.0),
        row(3, time=10.01),  # the last row of the surviving worker after the kill at 10
        row(2, attempt="b", time=27.0), row(3, attempt="b", time=28.0),  # repeated
        row(3, attempt="c", time=62.0), row(4, attempt="c", time=63.0), row(5, attempt="c", time=64.0),
    ]  # fmt: skip
    overtaken, found = recoveries([10.0, 40.0], rows, events)
    assert overtaken is None  # killed again at 40, before any new step
    assert found is not None
    assert (found.restart, found.down, found.own, found.build, found.repeated) == (23.0, 20.0, 3.0, 1.5, 1)
    (alone,) = recoveries([10.0], rows, events)
    assert alone is not None
    assert (alone.restart, alone.repeated) == (53.0, 1)
    assert recoveries([64.5], rows, events) == [None]


def test_one_bit_in_one_repeated_step_counts_against_its_kill() -> None:
    whole = [row(step, loss=1 / step) for step in range(1, 6)]
    cut = [row(1, time=1, loss=1.0), row(2, time=2, loss=1 / 2), row(2, time=12, loss=1 / 2)]
    cut += [row(3, time=13, loss=1 / 3), row(4, time=31, loss=1 / 4), row(5, time=32, loss=1 / 5)]
    kills = [10.0, 20.0, 30.0]  # nothing was done between 20 and 30
    assert bitwise_kills(kills, cut, whole) == 3
    cut[2]["loss"] = math.nextafter(1 / 2, 1)
    assert bitwise_kills(kills, cut, whole) == 2
    cut[-1]["tokens"] = 101  # also that of the kill during the restart
    assert bitwise_kills(kills, cut, whole) == 0
    assert bitwise_kills(kills, cut[:-1], whole) == 0  # a step is missing


def test_the_file_has_the_documented_keys_and_keeps_valid_figures(tmp_path: Path) -> None:
    path = tmp_path / "out" / "train.json"
    result = Result(path, commit="c" * 40, code="1")
    rounds = [
        {"ours": 900.0, "trl": 300.0, "trl_two": 250.0, "trl_default": 250.0, "ddp": 1000.0},
        {"ours": 1000.0, "trl": 200.0, "trl_two": 450.0, "ddp": 1250.0},
        {"ours": 1100.0, "trl": 100.0, "trl_two": 500.0, "ddp": 2000.0, "trl_bf16": 9000.0},
    ]
    result.put("speed", {"rounds": rounds})
    recovery = {"restart": 20.0, "down": 18.0, "own": 2.0, "build": 1.0, "repeated": 3}
    kills: list[dict[str, object]] = [
        {"in_checkpoint": False, "kind": "checkpoint", "recovery": recovery},  # planned there, but it ended before
        {"in_checkpoint": True, "kind": "step", "recovery": None},
        {"in_checkpoint": False, "kind": "step", "recovery": {**recovery, "restart": 30.0, "own": 5.0}},
    ]
    kills_part = {"kills": kills, "curve_bitwise_kills": 3, "export_bitwise": True, "ledger_exact": True}
    result.put("kills", kills_part)

    written = json.loads(path.read_text())
    assert {key: written[key] for key in FIGURES} == {
        "tokens_per_second": 1000.0,
        "ratio_vs_trl": 1000.0 / 450.0,  # the fastest of TRL's settings, but for another precision
        "ratio_vs_trl_default": 1000.0 / 250.0,
        "fsdp_vs_ddp": 0.8,
        "checkpoint_blocked_share": None,
        "restart_seconds": 25.0,
        "restart_seconds_max": 30.0,
        "restart_seconds_own": 3.5,
        "restart_seconds_own_max": 5.0,
        "kills": 3,
        "kills_in_checkpoint": 1,
        "kills_bitwise": 3,
        "ledger_exact": True,
    }
    assert written["machine"] == machine()
    assert written["machine"]["cores"] >= 1
    assert written["commit"] == "c" * 40
    assert {"torch", "transformers", "ray", "python"} <= set(written["versions"])
    assert written["parts"]["speed"]["date"] <= written["date"]

    again = Result(path, commit="d" * 40, code="1")  # a git commit that does not change the measured code
    again.put("blocked", {"share": 0.004})
    figures = json.loads(path.read_text())
    assert (figures["checkpoint_blocked_share"], figures["tokens_per_second"], figures["kills"]) == (0.004, 1000.0, 3)
    again.put("kills", kills_part | {"export_bitwise": False})
    assert json.loads(path.read_text())["kills_bitwise"] == 0
    text = table(again)
    for words in ("2 FSDP2 workers", "checkpoint_blocked_share", "0.004", "2.22"):
        assert words in text

    other = Result(path, commit="d" * 40, code="2")
    assert sorted(other.dropped) == ["blocked", "kills", "speed"]
    assert other.parts == {}


def test_the_workload_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = (make_workload(tmp_path / name, documents=30) for name in ("a", "b"))
    for name in ("bins/plan.json", "model/model.safetensors", "tokenizer/tokenizer.json"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()
    assert 1_050_000 < first.parameters < 1_150_000

    documents = first.documents()
    lengths = [len(ids) for ids in documents]
    assert len(documents) == 30
    assert SHORTEST <= min(lengths) < max(lengths) <= LONGEST
    assert first.n_tokens == sum(lengths) == sum(len(first.reader()[i].input_ids) for i in range(first.n_bins))
    assert first.fill == first.n_tokens / (first.n_bins * CONTEXT)
    ids = np.concatenate(documents)
    assert ids.max() < VOCABULARY
    assert len(np.unique(ids)) > 100  # words, not one repeated token
    assert len({tuple(ids[:50]) for ids in documents}) == 30


def test_every_contender_has_the_same_two_cores() -> None:
    assert set(DEFAULT) | set(OPPONENTS) | set(SWEEP) <= set(CONTENDERS)
    for contender in CONTENDERS.values():
        assert contender.processes * contender.threads == 2


@pytest.mark.real
def test_contenders_compute_the_same_loss_on_the_same_bins(tmp_path: Path) -> None:
    workload = make_workload(tmp_path / "workload", documents=30)
    answers = {
        name: run_contender(name, workload, tmp_path / name, steps=3, bins_per_step=4)
        for name in ("plain", "ours", "ddp")
    }
    for answer in answers.values():
        assert len(answer["ends"]) == len(answer["tokens"]) == len(answer["losses"]) == 3
        assert speed(answer, warmup=1) > 0
    ours, ddp, plain = (answers[name] for name in ("ours", "ddp", "plain"))
    assert ours["tokens"] == ddp["tokens"] == plain["tokens"]
    assert ours["losses"] == pytest.approx(ddp["losses"], abs=1e-6)  # three updates of the same optimizer
    assert ours["losses"][0] == pytest.approx(plain["losses"][0], abs=1e-5)  # the same weights, bins and targets
    assert ours["losses"][2] < ours["losses"][0]

    job = Job(workload="", out=str(tmp_path / "none"), steps=1, bins_per_step=1, threads=1)
    with pytest.raises(RuntimeError, match="bench.train.none failed with exit code 1:\n.*No module named"):
        run_module("bench.train.none", job, processes=1, timeout=60)


async def test_load_is_timed_from_the_moment_it_is_due() -> None:
    async def send(seconds: float) -> bool:
        await asyncio.sleep(seconds)
        return seconds < 0.2

    closed = await at_once(send, [0.05] * 4, clients=2)
    assert items_per_second(closed, 10) == pytest.approx(4 * 10 / 0.1, rel=0.3)
    opened = await at_random(send, [0.1] * 30, rate=100, seed=0)
    assert max(t.end for t in opened) - min(t.due for t in opened) < 1.0  # requests overlap
    assert percentile(opened, 0.5) == pytest.approx(100, rel=0.3)
    failed = await at_once(send, [0.25], clients=1)
    assert items_per_second(failed, 10) == 0  # what is not answered is not counted


def test_serving_figures_are_medians_of_pairs_and_rounds() -> None:
    timings = [Timing(due=float(i), end=i + (0.2 if i < 98 else 0.5), ok=True) for i in range(100)]
    found = serve_figures(
        alone={"ours": [1.1, 2.1, 9.0], "floor": [2.0]},
        stages={"receive": [0.01, 0.02, 0.03], "prepare": [0.02] * 3, "score": [1.0, 2.0, 3.0], "answer": [0.0] * 3},
        capacity={"ours": [100.0, 400.0, 300.0], "vllm_best": [100.0, 150.0], "vllm_default": [50.0]},
        at_70=timings, agreement=1e-7, errors=0,
    )  # fmt: skip
    assert set(found) == set(SERVE_FIGURES)
    assert found["http_overhead"] == pytest.approx(0.1)
    assert [found[f"{name}_ms"] for name in ("receive", "prepare", "engine", "answer", "other")] == pytest.approx(
        [20, 20, 2000, 0, 60]
    )
    assert (found["items_per_second"], found["ratio_best"], found["ratio_default"]) == (300.0, 2.4, 6.0)
    assert found["p50_ms"] == pytest.approx(200)
    assert found["p99_over_p50_at_70"] == pytest.approx(2.5, rel=0.01)


def test_the_random_model_answers_both_workloads(tmp_path: Path) -> None:
    like = SimpleNamespace(suite=load_suite("economic_graph"))
    parameters = write_random_version(tmp_path / "version", like)  # type: ignore[arg-type]
    assert 25e6 < parameters < 35e6
    version = load_version(tmp_path / "version")
    for name, sizes in WORKLOADS.items():
        (request,) = RequestMaker(version, sizes).make(1)
        assert len(request.labels) == 2, name
        assert len(request.questions) == sizes.candidates
        assert all(len(question) >= sizes.candidate for question in request.questions)
        assert len(request.prefix) > sizes.history // 2

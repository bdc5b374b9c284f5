"""Records survive a killed process, reach TensorBoard and Prometheus, and cannot stop a run."""

import json
import logging
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event, SessionLog

from brew_platform.errors import UserError
from brew_train.config import ModelShape, TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.loop import train
from brew_train.objectives.base import objectives
from brew_train.run_context import RunContext
from brew_train.telemetry.goodput import CAUSES, Goodput, goodput
from brew_train.telemetry.recorder import KINDS, MEASURES, METRICS, TENSORBOARD, Recorder, Tail, read_run


class Clock:
    """Unix seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def step_row(step: int, *, seconds: float = 1.0, **fields: Any) -> dict[str, Any]:
    row = {"stage": "cpt", "step": step, "steps": 9, "loss": 4.0 - step / 10, "seconds": seconds}
    return {**row, "skipped": False, "mfu": None, "evaluation": None, **fields}


def two_attempts(run: Path) -> Clock:
    """A launch and three steps; the worker is lost, and steps 3 and 4 follow, of which one is a repeat."""
    clock = Clock()
    driver = Recorder(run, attempt="driver", clock=clock)
    driver.event("launch")
    driver.close()
    for attempt, steps in (("a", [1, 2, 3]), ("b", [3, 4])):
        clock.now += 5
        with Recorder(run, attempt=attempt, clock=clock) as recorder:
            recorder.event("attempt", workers=2)
            clock.now += 1
            recorder.event("ready", step=steps[0] - 1)
            for step in steps:
                clock.now += 1
                recorder.step(step_row(step, evaluation={"loss": 3.5, "accuracy": None} if step == 2 else None))
    return clock


def test_rows_have_the_goodput_over_all_attempts(tmp_path: Path) -> None:
    two_attempts(tmp_path)
    rows, events = read_run(tmp_path)
    assert [(row["attempt"], row["step"]) for row in rows] == [("a", 1), ("a", 2), ("a", 3), ("b", 3), ("b", 4)]
    assert [event["kind"] for event in events] == ["launch", "attempt", "ready", "attempt", "ready"]
    assert rows[2]["goodput"] == 3 / 9
    assert rows[4]["goodput"] == pytest.approx(4 / 17)
    for seen, row in enumerate(rows, start=1):  # the live figure is that of the files at that moment
        assert goodput(rows[:seen], [e for e in events if e["time"] < row["time"]]).goodput == row["goodput"]


def test_values_that_are_not_finite_are_null_and_other_workers_write_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, attempt="a")
    row = recorder.step(step_row(1, loss=float("nan"), evaluation={"loss": float("inf")}))
    assert (row["loss"], row["evaluation"], row["attempt"]) == (None, {"loss": None}, "a")
    text = (tmp_path / METRICS).read_text()
    assert json.loads(text, parse_constant=pytest.fail) == row
    recorder.close()

    (tmp_path / "other").mkdir()
    other = Recorder(tmp_path / "other", attempt="a", writes=False)
    other.event("attempt")
    assert other.step(step_row(1)) == step_row(1)
    assert not list((tmp_path / "other").iterdir())


def test_an_error_that_ends_the_run_is_recorded_and_another_is_not(tmp_path: Path) -> None:
    with pytest.raises(UserError), Recorder(tmp_path, attempt="a"):
        raise UserError("the loss became nan in bins [3]: look at them.")
    with pytest.raises(RuntimeError), Recorder(tmp_path, attempt="b"):
        raise RuntimeError("a worker was lost")
    (event,) = read_run(tmp_path)[1]
    assert (event["kind"], event["error"]) == ("failed", "the loss became nan in bins [3]: look at them.")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 10_000))
def test_a_truncated_file_loses_only_the_incomplete_line(tmp_path: Path, cut: int) -> None:
    path = tmp_path / METRICS
    path.unlink(missing_ok=True)
    with Recorder(tmp_path, attempt="a", clock=Clock()) as recorder:
        before = [recorder.step(step_row(step, note="é")) for step in range(1, 4)]
    lines = path.read_bytes().splitlines(keepends=True)
    whole = path.read_bytes()[: cut % (path.stat().st_size + 1)]
    path.write_bytes(whole)
    follower = Tail(path)
    seen = follower.read()
    with Recorder(tmp_path, attempt="b", clock=Clock()) as recorder:
        after = recorder.step(step_row(3, note="é"))

    # A line without its end is complete once the next writer has ended it.
    complete = sum(len(b"".join(lines[: n + 1]).rstrip(b"\n")) <= len(whole) for n in range(3))
    assert read_run(tmp_path)[0] == [*before[:complete], after]
    assert [*seen, *follower.read()] == [*before[:complete], after]


def test_a_reader_waits_for_the_rest_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    follower = Tail(path)
    assert follower.read() == []
    path.write_bytes(b'{"step": 1}\n{"st')
    assert follower.read() == [{"step": 1}]
    with path.open("ab") as handle:
        handle.write(b'ep": 2}\n')
    assert follower.read() == [{"step": 2}]
    assert follower.read() == Tail(path, from_end=True).read() == []


def test_a_killed_process_leaves_rows_that_the_next_one_continues(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from brew_train.telemetry.recorder import Recorder\n"
        "monitor = Recorder(Path(sys.argv[1]), attempt='a')\n"
        "for step in range(1, 10**9): monitor.step({'stage': 's', 'step': step, 'loss': 1.5, 'pad': 'x' * 5000})"
    )
    child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, str(tmp_path)])
    follower, rows, deadline = Tail(tmp_path / METRICS), [], time.monotonic() + 60
    while len(rows) < 20 and time.monotonic() < deadline:
        rows += follower.read()
    child.send_signal(signal.SIGKILL)
    child.wait()
    rows += follower.read()
    with Recorder(tmp_path, attempt="b") as recorder:
        recorder.step({"stage": "s", "step": len(rows) + 1})
    rows += follower.read()
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["attempt"] for row in rows] == ["a"] * (len(rows) - 1) + ["b"]
    first, _ = sorted((tmp_path / TENSORBOARD).iterdir())
    assert len(list(tensorboard_events(first))) >= len(rows)  # a header, and all steps but the one it died in


@contextmanager
def small_files_only(most: int) -> Iterator[None]:
    """No file of this process grows past `most` bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Broken:
    """A sink whose disk is full."""

    def __init__(self) -> None:
        self.calls = 0

    def step(self, row: Mapping[str, Any], goodput: Goodput) -> None:
        self.calls += 1
        raise OSError("no space left on device")

    def close(self) -> None:
        pytest.fail("a sink that failed is left alone")


def test_a_failed_record_does_not_stop_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / TENSORBOARD).write_text("no folder")
    (tmp_path / METRICS).touch()
    os.truncate(tmp_path / METRICS, most := 8 * 2**20)
    broken = Broken()
    with small_files_only(most), Recorder(tmp_path, attempt="a", sinks=[broken]) as recorder:
        assert [recorder.step(step_row(step))["step"] for step in (1, 2, 3)] == [1, 2, 3]
        recorder.event("finished")
    assert broken.calls == 1
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2, warnings  # each is reported once
    assert "metrics.jsonl cannot be written ([Errno 27] File too large)" in warnings[0]
    assert warnings[1] == "Broken failed and receives no more metrics: no space left on device"
    assert [event["kind"] for event in read_run(tmp_path)[1]] == ["finished"]


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum, bit by bit, as TFRecords mask it."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def tensorboard_events(path: Path) -> Iterator[Event]:
    """The whole records of a TFRecord file, checked."""
    data = path.read_bytes()
    while len(data) >= 16:
        (length,) = struct.unpack("<Q", data[:8])
        if len(data) < 16 + length:
            return
        assert struct.unpack("<I", data[8:12]) == (crc32c(data[:8]),)
        body, (checksum,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        if len(body) < 2000:
            assert checksum == crc32c(body)
        yield Event.FromString(body)
        data = data[16 + length :]


def test_tensorboard_has_every_number_and_hides_repeated_steps(tmp_path: Path) -> None:
    clock = two_attempts(tmp_path)
    first, second = (list(tensorboard_events(path)) for path in sorted((tmp_path / TENSORBOARD).iterdir()))
    for version, start, *_ in (first, second):
        assert version.file_version == "brain.Event:2"
        assert start.session_log.status == SessionLog.START
    assert second[1].step == 3  # TensorBoard drops what an earlier file has of this step and of later ones
    assert [event.step for event in second[2:]] == [3, 4]
    assert second[-1].wall_time == clock.now
    scalars = {value.tag: value.simple_value for value in first[3].summary.value}
    assert scalars == pytest.approx(
        {"train/loss": 3.8, "train/seconds": 1, "train/skipped": 0, "train/goodput": 2 / 8, "evaluation/loss": 3.5}
    )


def test_a_run_writes_the_described_fields_and_its_goodput(
    config: TrainConfig, bins: dict[str, Path], shape: ModelShape, alone: DistributedContext, tmp_path: Path
) -> None:
    began = time.time()
    train(config, RunContext(bins=bins, out=tmp_path / "run", shape=shape, distributed=alone))
    seconds = time.time() - began
    rows, events = read_run(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 11))
    pairs_only = {"rejected_loss", "accuracy", "margin"}
    for row in rows:
        assert set(row) == set(MEASURES) - pairs_only
    kinds = [event["kind"] for event in events]
    assert set(kinds) <= set(KINDS)
    assert [kind for kind in kinds if kind != "checkpointed"] == ["attempt", "ready", "ready", "finished"]
    total = goodput(rows, events)
    assert total.held_seconds <= seconds
    assert total.productive_seconds == pytest.approx(sum(row["seconds"] - row["data_wait_seconds"] for row in rows))
    assert total.lost["down"] == total.lost["repeated"] == total.restarts == 0
    assert total.lost["build"] > 0 < total.lost["export"]


def test_every_measure_of_an_objective_is_described() -> None:
    measured = {name for kind in objectives().values() for name in kind.measures}
    assert {"prompt_loss", "accuracy"} <= measured <= set(MEASURES)


def test_the_documentation_has_every_measure_event_and_cause() -> None:
    text = (Path(__file__).parents[3] / "docs" / "observability.md").read_text()
    assert [name for name in [*MEASURES, *KINDS, *CAUSES] if f"`{name}`" not in text] == []


@pytest.mark.real
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_prometheus_scrapes_the_last_row_until_the_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")  # Ray's default is 10 s
    monkeypatch.setenv("BREW360_JOB_TEAM", "feed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    @ray.remote
    class Worker:
        def __init__(self, run: Path) -> None:
            from brew_train.telemetry.prometheus import PrometheusSink

            self.recorder = Recorder(run, attempt="a", sinks=[PrometheusSink(run="spring", repeat_seconds=0.5)])
            self.recorder.event("launch")
            self.recorder.event("attempt")

        def step(self, **row: Any) -> float:
            return float(self.recorder.step(row)["goodput"])

        def close(self) -> None:
            self.recorder.close()

    def scrape() -> dict[str, float]:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        found = {}
        for line in text.splitlines():
            if line.startswith("ray_brew_train_"):
                name, _, rest = line.partition("{")
                tags, _, value = rest.rpartition("} ")
                cause = tags.partition('cause="')[2].partition('"')[0]
                assert 'run="spring"' in tags
                assert 'team="feed"' in tags
                stage = tags.partition('stage="')[2].partition('"')[0]
                found[f"{stage} {name.removeprefix('ray_brew_train_')} {cause}".strip()] = float(value)
        return found

    def wait_for(gauge: str, *, there: bool = True) -> dict[str, float]:
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            try:
                if (gauge in (found := scrape())) is there:
                    return found
            except OSError:  # the node's agent is still starting
                pass
            time.sleep(0.2)
        raise AssertionError(f"{gauge}: {'never came' if there else 'never went'}")

    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100_000_000,
        _metrics_export_port=port,
    )
    try:
        worker = Worker.remote(tmp_path)
        row = step_row(1, tokens_per_second=1234.5, evaluation={"loss": 3.25}, loss=2.5)
        goodput_seen = ray.get(worker.step.remote(**row))
        found = wait_for("cpt loss")
        assert found["cpt loss"] == 2.5
        assert found["cpt evaluation_loss"] == 3.25
        assert found["cpt tokens_per_second"] == 1234.5
        assert found["cpt goodput"] == pytest.approx(goodput_seen)
        assert found["cpt held_seconds"] == pytest.approx(
            found["cpt productive_seconds"] + sum(v for k, v in found.items() if k.startswith("cpt lost_seconds "))
        )
        assert time.time() - 60 < found["cpt last_step_time_seconds"] < time.time()
        assert "cpt mfu" not in found  # not known, and so not 0

        time.sleep(5)  # several reports without a step
        assert scrape()["cpt loss"] == 2.5
        ray.get(worker.step.remote(**{**row, "stage": "sft", "step": 2, "loss": None, "evaluation": None}))
        assert not {"sft loss", "sft evaluation_loss"} & set(wait_for("sft step"))
        wait_for("cpt loss", there=False)
        os.kill(ray.get(worker.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)
        wait_for("sft step", there=False)
    finally:
        ray.shutdown()

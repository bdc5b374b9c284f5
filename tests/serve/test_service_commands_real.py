"""The service commands in real processes: start, answer and stop a service; kill and resume a batch."""

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brew_data.corpora.preference_file import read_preferences
from brew_data.data_folder import DatasetInfo
from brew_data.prompts.bundle import PromptBundle
from brew_data.schema import Tables, write_tables
from brew_data.split import Split
from brew_platform.ports import free_port
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store
from brew_serve.context.base import MemberContext
from brew_serve.ranking.service import RankingService
from brew_serve.schemas.rank import RankRequest
from brew_serve.version import LoadedVersion

pytestmark = [
    pytest.mark.real,
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]

ROWS, PART = 400, 5


@pytest.fixture
def folder(tmp_path: Path, version: LoadedVersion, tables: Tables) -> Iterator[Path]:
    """A working folder with a registry and a member context; fails if a process started in it is left."""
    registry = Registry(open_store(str(tmp_path / "runs/registry")))
    registry.publish(version.folder, signature={}, lineage={}, metrics={}, author="test")
    registry.promote(1, force=True, reason="test", author="test")
    MemberContext.build(tables, tmp_path / "context.sqlite")
    yield tmp_path
    deadline = time.monotonic() + 20
    while left := processes_in(tmp_path):
        assert time.monotonic() < deadline, f"left running: {left}"
        time.sleep(0.5)


def processes_in(folder: Path) -> list[str]:
    return [
        " ".join(process.info["cmdline"] or [])[:100]
        for process in psutil.process_iter(["cmdline", "status", "cwd"])
        if process.info["cwd"] == str(folder) and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "brew360"), *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        # without what an earlier test's Ray left in this process: its token is in another home folder
        env={**{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
             "HOME": str(cwd), "COLUMNS": "200"},
    )  # fmt: skip


def run(*arguments: str, cwd: Path) -> tuple[int, str]:
    command = start(*arguments, cwd=cwd)
    output, _ = command.communicate(timeout=300)
    return command.returncode, output


def write_data(folder: Path, tables: Tables, version: LoadedVersion) -> None:
    """Write a data folder with the prompts of a version, without bins."""
    folder.mkdir()
    write_tables(tables, folder / "tables")
    bundle = PromptBundle.of(version.compiler)
    bundle.save(folder / "prompts")
    split = Split(train_until=10**12, until=10**12)
    DatasetInfo(
        source="tables", split=split, has_true_probabilities=False, config_digest="c" * 64,
        prompt_digest=bundle.digest, commit=None,
    ).write(folder)  # fmt: skip


def test_a_service_starts_answers_and_stops(folder: Path, tables: Tables, version: LoadedVersion) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    code, output = run("serve", "up", f"port={port}", "context_path=context.sqlite", cwd=folder)
    try:
        assert code == 0, output
        assert f"The service is up at {url}" in output
        line = next(line for line in output.splitlines() if line.startswith("curl "))
        answer = json.loads(subprocess.run(shlex.split(line), capture_output=True, text=True, check=True).stdout)
        assert {item["id"] for item in answer["ranking"]} == {"a", "b"}

        (folder / "request.json").write_text(
            json.dumps({"task": "job_apply", "member_id": "ada", "candidates": ["e0", "e2", "e4"]})
        )
        code, ranked = run("rank", "request.json", "--url", url, cwd=folder)
        assert (code, "job_apply, version 1" in ranked, "3 scored" in ranked) == (0, True, True), ranked
        write_data(folder / "data", tables, version)
        settings = ["model=brew360", "instructions=3", "per_member=3", "answers=2", "most_tokens=8", "least_margin=0"]
        code, summary = run("data", "pairs", "data", "pairs", f"url={url}/v1", *settings, cwd=folder)
        assert (code, "3 instructions, 6 answers, 3 pairs" in summary) == (0, True), summary
        assert len(list(read_preferences(folder / "pairs/pairs.jsonl"))) == 3

        code, status = run("serve", "status", "--url", url, cwd=folder)
        assert code == 0, status
        assert "brew360, following production: takes requests" in status
        assert re.search(r"1 │ production │\s+100% │\s+1 │ up", status), status

        logs = re.search(r"Logs: (\S+) and (\S+)", output)
        assert logs is not None
        assert Path(logs[1]) == folder / "runs/serve/logs/serve.log"
        assert Path(logs[1]).is_file()
        assert any(Path(logs[2]).glob("*Replica*")), "the replicas' logs must be where the command says"

        code, second = run("serve", "up", f"port={free_port()}", cwd=folder)
        assert (code, "Ray is already running" in second, "brew360 serve down" in second) == (2, True, True), second
    finally:
        code, output = run("serve", "down", cwd=folder)
    assert code == 0, output
    code, refused = run("rank", "request.json", "--url", url, cwd=folder)
    assert (code, f"no response from {url} (ConnectError" in refused) == (1, True), refused


def test_ctrl_c_stops_a_foreground_service_and_its_processes(folder: Path) -> None:
    serve = start("serve", "up", "--foreground", f"port={free_port()}", cwd=folder)
    assert serve.stdout is not None
    seen = ""
    while "Ctrl-C" not in seen:
        line = serve.stdout.readline()
        assert line, seen
        seen += line
    url = re.findall(r"http://[\d.:]+", seen)[0]
    code, status = run("serve", "status", "--url", url, cwd=folder)
    assert (code, "takes requests" in status) == (0, True), status
    os.killpg(serve.pid, signal.SIGINT)
    output, _ = serve.communicate(timeout=90)
    assert serve.returncode == 0, output
    assert "stopping: accepted requests are completed first" in output
    assert "Traceback" not in output


@pytest.mark.faults
def test_a_killed_batch_resumes_without_scoring_rows_twice(
    folder: Path, version: LoadedVersion, service: RankingService
) -> None:
    rows = [
        {
            "task": "job_apply",
            "member_id": ("ada", "new", "gone")[i % 3],
            "candidates": ["e0", "e2", "e4", "e6"][: 1 + i % 4],
        }
        for i in range(ROWS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "requests.parquet", row_group_size=150)
    command = ["score", "requests.parquet", "out", "context_path=context.sqlite", f"batch.rows={PART}"]
    killed = start(*command, cwd=folder)
    deadline = time.monotonic() + 240
    while len(before := sorted((folder / "out").glob("part-*.parquet"))) < 5:
        assert killed.poll() is None, killed.communicate()[0]
        assert time.monotonic() < deadline, "no part was ever written"
        time.sleep(0.02)
    killed.kill()
    killed.communicate(timeout=60)
    while processes_in(folder):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    before = sorted((folder / "out").glob("part-*.parquet"))
    assert 5 <= len(before) < ROWS / PART
    assert not (folder / "out/_done.json").exists()
    stamps = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in before}

    registry = Registry(open_store(str(folder / "runs/registry")))  # production moves meanwhile
    registry.publish(version.folder, signature={}, lineage={}, metrics={}, author="test")
    registry.promote(2, force=True, reason="test", author="test")

    code, output = run(*command, cwd=folder)
    assert code == 0, output
    assert f"{len(before) * PART} of {ROWS} rows are already scored; continuing." in output
    assert "version 1 scored" in output
    assert "their column `error` says why" in output
    after = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (folder / "out").glob("part-*")}
    assert stamps.items() <= after.items(), "a finished part was written again"
    assert not list((folder / "out").glob(".*"))

    scored = pq.read_table(folder / "out").to_pylist()
    expected = [
        (number, row["task"], row["member_id"], id_) for number, row in enumerate(rows) for id_ in row["candidates"]
    ]
    keys = ("row", "task", "member_id", "candidate_id")
    assert sorted(tuple(row[key] for key in keys) for row in scored) == sorted(expected)
    assert {row["version"] for row in scored} == {1}
    failed = [row for row in scored if row["error"] is not None]
    assert {row["member_id"] for row in failed} == {"gone"}
    assert json.loads((folder / "out/_done.json").read_text()) == {
        "rows": ROWS, "candidates": len(expected), "failed": len(failed), "abandoned": 0
    }  # fmt: skip
    scores = {
        member: {row["candidate_id"]: row["score"] for row in scored if row["member_id"] == member}
        for member in ("ada", "new")
    }
    for member, batch_scores in scores.items():
        request = RankRequest(task="job_apply", member_id=member, candidates=list(batch_scores))
        online = asyncio.run(service.rank(request)).response
        assert batch_scores == pytest.approx({item.id: item.score for item in online.ranking}, abs=1e-5)

    code, output = run(*command, cwd=folder)  # nothing is left to do, and no engine is started for it
    assert (code, "continuing" in output, "version 1 scored" in output) == (0, True, True), output
    code, output = run(*command[:-1], "batch.rows=7", cwd=folder)
    assert (code, "contains another batch: rows differs" in output) == (2, True), output

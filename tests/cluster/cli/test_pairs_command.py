"""`brew360 data pairs` over real sockets: what it sends and writes, and runs that were interrupted or killed."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from brew_cluster.cli.main import app
from brew_data.corpora.preference_file import read_preferences
from brew_data.corpora.preferences import build_pairs
from brew_data.data_folder import DataFolder
from brew_data.prompts.compiler import PromptFormat

KEY = "key-of-the-endpoint"


class Endpoint(ThreadingHTTPServer):
    """Answers with the first label of the instruction, or with words; refuses or blocks after a number of answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.refuses_after = self.blocks_after = 1_000
        self.released = threading.Event()
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            number = len(self.server.bodies)
            if number >= self.server.refuses_after:
                self._send(400, {"error": {"message": "the prompt has too many tokens"}})
                return
            self.server.bodies.append(body)
            self.server.keys.append(self.headers["authorization"])
        if number >= self.server.blocks_after:
            self.server.released.wait(60)
        question = body["messages"][-1]["content"]
        label = question.partition("one of: ")[2].partition(",")[0]
        text = "7" if "Rate the answer" in question else label if body["seed"] == 0 else "perhaps"
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        self._send(200, {"object": "chat.completion", "choices": [choice]})

    def _send(self, status: int, content: object) -> None:
        data = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client was killed
            self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


Run = Callable[..., str]


@pytest.fixture
def run(built_folder: DataFolder, tmp_path: Path, endpoint: Endpoint) -> Run:
    """Run the command on the small data folder; its member has three instructions with two answers each."""

    def call(*settings: str, code: int = 0, env: dict[str, str] | None = None) -> str:
        arguments = ["data", "pairs", str(built_folder.folder), str(tmp_path / "pairs")]
        small = [f"url={endpoint.url}", "model=m", "per_member=3", "answers=2", "concurrency=1"]
        variables = {"COLUMNS": "200", "BREW360_API_KEY": "", "BREW360_JUDGE_API_KEY": "", **(env or {})}
        done = CliRunner(env=variables).invoke(app, [*arguments, *small, *settings])
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output
        return " ".join(done.output.split())

    return call


def test_pairs_are_written_with_scores_and_a_summary(
    run: Run, endpoint: Endpoint, built_folder: DataFolder, tmp_path: Path
) -> None:
    output = run(env={"BREW360_API_KEY": KEY})
    assert "3 instructions, 6 answers, 3 pairs; 6 requests in this run" in output
    assert set(endpoint.keys) == {f"Bearer {KEY}"}
    folder = tmp_path / "pairs"
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in rows) == ["buy/0", "buy/2", "buy/3"]
    assert all(row["score_chosen"] > row["score_rejected"] for row in rows)
    assert {row["chosen"] for row in rows} == {"bought"}
    assert len(list(read_preferences(folder / "pairs.jsonl"))) == 3
    larger = replace(built_folder.bundle(), format=PromptFormat(context_length=1024)).compiler()
    assert build_pairs(folder / "pairs.jsonl", larger, tmp_path / "bins").n_pairs == 3
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["instructions"], summary["answers"], summary["pairs"]) == (3, 6, 3)
    assert (summary["model"], summary["judge"], summary["data"]) == ("m", "rules", built_folder.info.digest)
    assert summary["tasks"] == {"buy": {"instructions": 3, "pairs": 3}}
    assert summary["mean_score_chosen"] > summary["mean_score"] > summary["mean_score_rejected"]
    assert not any(KEY.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    run()
    assert len(endpoint.bodies) == 6  # nothing is requested again


def test_a_judge_has_a_key_of_its_own(run: Run, endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "judge.key").write_text("key-of-the-judge\n")
    judge = ["judge.url=" + endpoint.url.replace("127.0.0.1", "localhost"), "judge.model=large"]
    output = run(*judge, "--judge-key-file", str(tmp_path / "judge.key"), env={"BREW360_API_KEY": KEY})
    assert "3 instructions have no pair" in output  # the judge rates all answers alike
    keys = {body["model"]: key for body, key in zip(endpoint.bodies, endpoint.keys, strict=True)}
    assert keys == {"m": f"Bearer {KEY}", "large": "Bearer key-of-the-judge"}
    assert json.loads((tmp_path / "pairs/summary.json").read_text())["judge"] == "large"


def test_the_key_is_not_sent_to_the_endpoint_of_the_judge(run: Run, endpoint: Endpoint) -> None:
    run(
        "judge.url=" + endpoint.url.replace("127.0.0.1", "localhost"), "judge.model=large", env={"BREW360_API_KEY": KEY}
    )
    keys = {body["model"]: key for body, key in zip(endpoint.bodies, endpoint.keys, strict=True)}
    assert keys == {"m": f"Bearer {KEY}", "large": None}


def test_a_run_that_was_refused_continues(run: Run, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.refuses_after = 2  # both answers to the second instruction
    output = run(code=2)
    assert "refuses the request with status 400" in output
    assert "the prompt has too many tokens" in output
    assert not (tmp_path / "pairs" / "pairs.jsonl").exists()
    endpoint.refuses_after = 1_000
    assert "3 pairs; 4 requests in this run" in run()
    assert len(endpoint.bodies) == 6
    assert "0 pairs; 0 requests in this run" in run("least_margin=0.9")
    assert "answers of other settings (temperature 1.0)" in run("temperature=0.5", code=2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["url=http://127.0.0.1:1/v1"], "http://127.0.0.1:1/v1 cannot be reached"),
        (["url=localhost"], "must be an address such as http://127.0.0.1:8000/v1"),
        (["answers=1"], "answers"),
        (["judge.url=http://127.0.0.1:1/v1"], "judge.model has no value"),
        (["key=secret"], "key"),
        (["--key-file", "missing.key"], "missing.key cannot be read"),
    ],
)
def test_invalid_input_is_one_sentence(run: Run, settings: list[str], words: str) -> None:
    output = run(*settings, code=2)
    assert output.startswith(("error: ", "[1/1]"))
    assert words in output


@pytest.mark.real
@pytest.mark.faults
def test_a_run_that_was_killed_continues(built_folder: DataFolder, endpoint: Endpoint, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "brew360"), "data", "pairs", str(built_folder.folder), "pairs"]
    command += [f"url={endpoint.url}", "model=m", "per_member=3", "answers=2", "concurrency=1"]
    endpoint.blocks_after = 3
    killed = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "COLUMNS": "200"})
    answers, deadline = tmp_path / "pairs" / "answers.jsonl", time.monotonic() + 60
    while not answers.exists() or len(answers.read_bytes().splitlines()) < 4:
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.kill()
    killed.wait(timeout=20)
    endpoint.released.set()
    before, endpoint.blocks_after = len(endpoint.bodies), 1_000
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "COLUMNS": "200"}, timeout=60, check=False)
    assert done.returncode == 0
    assert len(endpoint.bodies) == before + 3  # the three answers that had not arrived
    assert len((tmp_path / "pairs" / "pairs.jsonl").read_text().splitlines()) == 3

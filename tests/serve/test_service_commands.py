"""The service commands and the examples of docs/clients.md, against an HTTP server in this process."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from brew_cluster.cli.main import app
from brew_cluster.cli.views.service import example_request
from brew_cluster.jobs.serve_job import load_serve
from brew_data.schema import Tables
from brew_platform.errors import ConfigError
from brew_platform.identity.keys import SCOPES, create_key
from brew_platform.ports import free_port
from brew_platform.registry.registry import Registry
from brew_platform.storage.base import open_store
from brew_serve.config import AppConfig
from brew_serve.context.base import MemberContext
from brew_serve.http.app import create_app
from brew_serve.http.backend import LocalBackend
from brew_serve.http.config import MiddlewareConfig
from brew_serve.http.routes.nearline import nearline_router
from brew_serve.nearline.config import NearlineConfig
from brew_serve.nearline.service import NearlineService
from brew_serve.ranking.service import RankingService
from brew_serve.version import LoadedVersion

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

DOCUMENT = (Path(__file__).parents[2] / "docs/clients.md").read_text()
NOWHERE = "http://127.0.0.1:9"  # the discard port, where nothing listens


class Listening:
    """A service on a free port, until `close`."""

    def __init__(
        self, service: RankingService, middleware: MiddlewareConfig, nearline: NearlineService | None = None
    ) -> None:
        port = free_port()
        routers = () if nearline is None else (nearline_router(lambda: nearline),)
        api = create_app(LocalBackend(service), middleware, routers=routers)
        self.url = f"http://127.0.0.1:{port}"
        self._server = uvicorn.Server(uvicorn.Config(api, port=port, log_level="error", ws="none", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def keys_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.yaml"


@pytest.fixture(scope="module")
def key(keys_path: Path) -> str:
    return create_key(keys_path, "ops", scopes=SCOPES)


@pytest.fixture(scope="module")
def listening(service: RankingService, tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """A service without keys, with the nearline service but without a consumer."""
    folder = tmp_path_factory.mktemp("nearline")
    MemberContext.build(tables, folder / "context.sqlite")
    config = NearlineConfig(folder=str(folder), context_path=str(folder / "context.sqlite"))
    nearline = NearlineService.open(config, lambda: service.version.suite)
    server = Listening(service, MiddlewareConfig(), nearline)
    yield server
    server.close()
    nearline.close()


@pytest.fixture(scope="module")
def keyed(service: RankingService, keys_path: Path, key: str) -> Iterator[Listening]:
    server = Listening(service, MiddlewareConfig(keys_path=str(keys_path)))
    yield server
    server.close()


def brew360(*arguments: str, text: str = "", **environment: str) -> Result:
    """Run a command in this process; only for commands that start no other process."""
    runner = CliRunner(env={"COLUMNS": "160", "BREW360_API_KEY": None, "BREW360_URL": None, **environment})
    return runner.invoke(app, arguments, input=text)


# --- rank and status ---


@pytest.fixture
def request_file(body: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(body))
    return path


def test_a_ranking_is_a_table_or_json(listening: Listening, request_file: Path) -> None:
    done = brew360("rank", str(request_file), "--url", listening.url)
    assert done.exit_code == 0, done.output
    assert "job_apply, version 3" in done.output
    assert "P(apply)" in done.output
    assert "8 scored" in done.output
    raw = brew360("rank", "-", "--json", text=request_file.read_text(), BREW360_URL=listening.url)
    answer = json.loads(raw.output)
    assert len(answer["ranking"]) == 8
    rows = [line.split() for line in done.output.splitlines() if re.match(r"[│|]\s*\d", line)]
    assert [row[3] for row in rows] == [item["id"] for item in answer["ranking"]], done.output


def test_rank_errors_are_one_sentence(
    listening: Listening, keyed: Listening, request_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "half.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "unknown.json").write_text('{"task": "job_apply", "member_id": "nobody", "candidates": ["e0"]}')
    (tmp_path / "lacking.json").write_text('{"task": "job_apply"}')
    for arguments, code, sentence in [
        ([str(tmp_path / "none.json")], 2, "none.json cannot be read (No such file or directory)"),
        ([str(tmp_path / "half.json")], 2, "half.json is not valid JSON"),
        ([str(tmp_path / "list.json")], 2, "list.json does not hold a JSON object"),
        ([str(request_file), "--url", NOWHERE], 1, f"no response from {NOWHERE} (ConnectError"),
        ([str(request_file), "--url", keyed.url], 2, "the API key is missing; send your team's"),
        ([str(request_file), "--url", keyed.url, "--key-file", "none"], 2, "none cannot be read"),
        ([str(request_file), "--url", f"{listening.url}/there"], 2, "POST /there/v1/rank is not served"),
        ([str(tmp_path / "unknown.json"), "--url", listening.url], 2, "member 'nobody' is unknown here"),
        ([str(tmp_path / "lacking.json"), "--url", listening.url], 2, "is missing; give it"),
    ]:
        done = brew360("rank", *arguments)
        assert done.exit_code == code, done.output
        assert done.output.startswith("error: ")
        assert sentence in done.output
        assert "Traceback" not in done.output


def test_the_key_is_read_from_a_file_or_the_environment(
    keyed: Listening, key: str, request_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(f"{key}\n")
    assert brew360("rank", str(request_file), "--url", keyed.url, "--key-file", str(tmp_path / "key")).exit_code == 0
    assert brew360("rank", str(request_file), "--url", keyed.url, BREW360_API_KEY=key).exit_code == 0
    wrong = brew360("rank", str(request_file), "--url", keyed.url, BREW360_API_KEY="b360_wrong")
    assert (wrong.exit_code, "the API key is not known here" in wrong.output) == (2, True)
    (tmp_path / "lines").write_text("a\nb")
    lines = brew360("rank", str(request_file), "--url", keyed.url, "--key-file", str(tmp_path / "lines"))
    assert "not a single line of ASCII characters" in lines.output


def test_a_busy_service_returns_a_retry_time(keyed: Listening, keys_path: Path, request_file: Path) -> None:
    slow = create_key(keys_path, "slow", tokens_per_minute=1)
    arguments = ["rank", str(request_file), "--url", keyed.url]
    # This call uses more than the quota, for longer than the client waits for a retry.
    assert brew360(*arguments, BREW360_API_KEY=slow).exit_code == 0
    done = brew360(*arguments, BREW360_API_KEY=slow)
    assert done.exit_code == 2
    assert re.search(r"team slow may use 1 tokens a minute and has used them; .* \(Retry-After: \d+ s\)", done.output)


def test_status_is_a_table_of_versions(listening: Listening) -> None:
    done = brew360("serve", "status", "--url", listening.url)
    assert done.exit_code == 0, done.output
    assert "takes requests" in done.output
    assert re.search(r"3\s*│\s*production\s*│\s*100%\s*│\s*1\s*│\s*up", done.output)
    status = json.loads(brew360("serve", "status", "--json", "--url", listening.url).output)
    assert status["versions"][0]["version"] == 3
    nobody = brew360("serve", "status", "--url", NOWHERE)
    assert (nobody.exit_code, "Check that the service is up" in nobody.output) == (1, True)


# --- keys ---


def test_a_key_is_printed_once_listed_by_its_id_and_revoked(tmp_path: Path) -> None:
    file = str(tmp_path / "keys.yaml")
    created = brew360("keys", "create", "feed", "--file", file, "--requests-per-second", "5")
    assert created.exit_code == 0, created.output
    printed = created.stdout.strip()
    assert re.fullmatch(r"b360_[0-9a-f]{8}_[\w-]{43}", printed), (
        "the output holds the key alone, to be written to a file"
    )
    assert "it is not shown again" in created.stderr
    id_ = printed.split("_")[1]
    listed = brew360("keys", "list", "--file", file).output
    assert re.search(rf"{id_}\s*│\s*feed\s*│\s*rank events nearline\s*│\s*5\s*│\s*no limit", listed)
    assert printed[-43:] not in listed + Path(file).read_text()
    assert f"key {id_} of team feed is revoked" in brew360("keys", "revoke", id_, "--file", file).output
    again = brew360("keys", "revoke", id_, "--file", file)
    assert (again.exit_code, "contains no key" in again.output) == (2, True)
    nowhere = brew360("keys", "list", "--file", str(tmp_path / "none.yaml"))
    assert (nowhere.exit_code, "does not exist. Create a key" in nowhere.output) == (2, True)


def test_a_key_has_scopes_and_its_team_has_quotas_of_jobs(tmp_path: Path) -> None:
    file = str(tmp_path / "keys.yaml")
    described = brew360("keys", "create", "--help").output
    assert all(scope in described for scope in SCOPES)
    options = ["--scopes", "jobs,rank", "--gpu-hours-per-month", "5000", "--concurrent-gpus", "64", "--priority", "2"]
    for more in ([], ["--key-scopes", "rank"]):
        assert brew360("keys", "create", "research", "--file", file, *options, *more).exit_code == 0
    rows = [
        [cell.strip() for cell in line.split("│")[3:-1]]
        for line in brew360("keys", "list", "--file", file).output.splitlines()
        if "research" in line
    ]
    shared = ["no limit", "no limit", "1", "5,000", "64", "2"]
    assert rows == [["rank jobs", *shared], ["rank", *shared]]
    refused = brew360("keys", "create", "research", "--file", file, "--key-scopes", "admin")
    assert (refused.exit_code, "team research has no scope admin" in refused.output) == (2, True)


# --- serve up, and score ---


def test_a_job_has_the_settings_of_the_application_with_absolute_paths(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    job = load_serve(
        ["port=8100", "nearline.folder=near", "nearline.context_path=${context_path}", "context_path=c.db"]
    )
    assert isinstance(job, AppConfig)
    assert (job.port, job.registry_url) == (8100, str(tmp_path / "runs/registry"))
    assert job.cache_folder == str(tmp_path / "runs/serve/versions")
    assert job.nearline is not None
    assert (job.nearline.folder, job.nearline.context_path) == (str(tmp_path / "near"), str(tmp_path / "c.db"))
    assert load_serve([]).nearline is None
    (tmp_path / "mine.yaml").write_text(
        "{port: 8200, middleware: {keys_path: keys.yaml}, registry_url: 's3://bucket/models'}"
    )
    mine = load_serve(["mine.yaml", "engine.threads=1"])
    assert (mine.port, mine.engine.threads, mine.registry_url) == (8200, 1, "s3://bucket/models")
    assert mine.middleware.keys_path == str(tmp_path / "keys.yaml")
    for wrong, sentence in [
        ("mars", "mars is neither a YAML file nor a recipe that ships"),
        ("prot=1", "Did you mean port"),
        ("port=0", "port is 0; give an integer, at least 1 and at most 65,535"),
        ("nearline.folder=x", "neither of context_path and redis_url given"),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            load_serve([wrong])


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "brew360"), *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["serve", "up", "prot=1"], 2, "Did you mean port"),
        (["serve", "up"], 1, "brew360 has no alias 'production'; existing are: none yet"),
        (["score", "none.parquet", "out"], 2, "context_path has no value and no default. Set it"),
        (["score", "none.parquet", "out", "context_path=c.db", "engine.block_sise=3"], 2, "engine.block_size"),
        (["score", "none.parquet", "out", "context_path=c.db"], 1, "brew360 has no alias 'production'"),
    ],
)
def test_invalid_settings_are_reported_before_anything_starts(
    arguments: list[str], code: int, sentence: str, tmp_path: Path
) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert sentence in done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stdout + done.stderr


def test_help_and_wrong_settings_import_no_heavy_package(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('ray', 'torch', 'transformers', 'vllm'): sys.modules[name] = None\n"
        "from brew_cluster.cli.main import main; main()"
    )
    for arguments, words in [
        (["serve", "up", "--help"], "--foreground"),
        (["score", "--help"], "Parquet"),
        (["serve", "up", "engine.thread=1"], "Did you mean engine.threads"),
        (["score", "a.parquet", "out", "batch.row=1"], "Did you mean batch.rows"),
        (["rank", "none.json"], "none.json cannot be read"),
        (["rank", "-", "--url", NOWHERE], "is not valid JSON"),
    ]:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
        assert words in done.stdout, done.stdout + done.stderr


def test_requests_that_do_not_exist_are_named(tmp_path: Path, version: LoadedVersion, tables: Tables) -> None:
    registry = Registry(open_store(str(tmp_path / "runs/registry")))
    registry.publish(version.folder, signature={}, lineage={}, metrics={}, author="test")
    registry.promote(1, force=True, reason="test", author="test")
    MemberContext.build(tables, tmp_path / "c.db")
    done = run("score", "none.parquet", "out", "context_path=c.db", cwd=tmp_path)
    assert (done.returncode, "none.parquet is neither a Parquet file" in done.stdout) == (2, True), done.stdout
    assert not (tmp_path / "out").exists()


def test_the_printed_example_request_is_answered(listening: Listening, version: LoadedVersion, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(json.dumps(example_request(version.suite)))
    done = brew360("rank", str(tmp_path / "request.json"), "--json", "--url", listening.url)
    assert {item["id"] for item in json.loads(done.output)["ranking"]} == {"a", "b"}


# --- docs/clients.md ---


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL), ids=lambda code: code[:40])
def test_every_python_example_runs(
    code: str, listening: Listening, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(
        compile(code.replace("http://127.0.0.1:8000", listening.url), "docs/clients.md", "exec"),
        {"__name__": "__main__"},
    )
    assert "Traceback" not in capsys.readouterr().err


def test_every_curl_line_is_answered(listening: Listening) -> None:
    lines = [line for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL) for line in block.splitlines()]
    curls = [line.split(" #")[0] for line in lines if line.startswith("curl ")]
    assert curls
    for line in curls:
        words = shlex.split(line.replace("http://127.0.0.1:8000", listening.url))
        done = subprocess.run([*words, "-w", "\n%{http_code}"], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1][0] == "2", done.stdout


def test_the_request_file_of_the_document_is_answered(listening: Listening, tmp_path: Path) -> None:
    (request,) = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "request.json").write_text(request)
    done = brew360("rank", str(tmp_path / "request.json"), "--url", listening.url)
    assert done.exit_code == 0, done.output

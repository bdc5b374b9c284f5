"""`brew360 submit` and `brew360 jobs` against the application: what they send, print and return."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner, Result

from brew_cluster.cli.commands import jobs, submit
from brew_cluster.cli.commands.submit import make_spec
from brew_cluster.cli.views.jobs import write_log
from brew_cluster.gateway.client import JobClient
from brew_platform.errors import UserError

from .conftest import Gateway
from .test_app import Api


@pytest.fixture
def api(gateway: Gateway, keys: dict[str, str]) -> Api:
    return Api(gateway, keys)


@pytest.fixture
def run(api: Api, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command as team feed."""
    for module in (jobs, submit):
        monkeypatch.setattr(module, "open_job_client", lambda *arguments, **options: api.client())
    app = typer.Typer()
    submit.register(app)
    jobs.register(app)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})

    return invoke


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "cpt", "run=a"], {"kind": "recipe", "command": "train", "recipe": "cpt", "overrides": ["run=a"]}),
        (
            ["data", "build", "synthetic", "--out", "data/a", "seed=1"],
            {"command": "data build", "recipe": "synthetic", "overrides": ["seed=1"], "options": ["--out=data/a"]},
        ),
        (["data", "build", "synthetic", "--out=data/a"], {"options": ["--out=data/a"]}),
        (["export", "runs/a", "runs/b c"], {"kind": "entrypoint", "entrypoint": "brew360 export runs/a 'runs/b c'"}),
    ],
)
def test_a_command_line_becomes_a_job(arguments: list[str], expected: dict[str, Any]) -> None:
    spec = make_spec(arguments, None, gpus=2).model_dump()
    assert {name: spec[name] for name in expected} == expected
    assert spec["gpus"] == 2


def test_the_file_of_a_recipe_is_sent_along(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("run: a\n")
    spec = make_spec(["train", str(path), "train.seed=1"], None)
    assert (spec.recipe, spec.recipe_text, spec.text) == (
        "mine.yaml",
        "run: a\n",
        "brew360 train mine.yaml train.seed=1",
    )


@pytest.mark.parametrize(
    ("arguments", "entrypoint", "words"),
    [
        ([], None, "give a brew360 command, such as"),
        (["train", "cpt"], "x", "and not both"),
        (["train"], None, "the recipe is missing"),
        (["train", "run=a"], None, "the recipe is missing"),
        (["train", "none.yaml"], None, "none.yaml does not exist"),
        (["train", "../cpt"], None, "does not exist"),
        (["trian", "cpt"], None, "is not a brew360 command"),
        (["export", "a"], None, "Missing argument 'out'"),
        (["export", "--help"], None, "only prints its help"),
        (["registry", "pubish"], None, "after registry comes one of publish"),
    ],
)
def test_a_command_line_that_cannot_run_is_refused_before_it_is_sent(
    arguments: list[str], entrypoint: str | None, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        make_spec(arguments, entrypoint)


def test_submit_prints_the_id_and_the_place(run: Callable[..., Result], api: Api) -> None:
    done = run("submit", "--entrypoint", "sleep 1", "--gpus", "8")
    assert done.output == "job-1 is next in the queue.\nFollow its log with: brew360 jobs logs job-1 --follow\n"
    api.gateway.step()
    done = run("submit", "--entrypoint", "sleep 1", "--gpus", "8", "--name", "second", "--max-time", "2h")
    assert "has place 1 in the queue: needs 8 GPUs; team feed uses 8 of the 8" in done.output
    job = json.loads(run("jobs", "show", "job-4", "--json").output)
    assert (job["spec"]["max_seconds"], job["spec"]["name"]) == (7_200, "second")
    table = run("jobs", "list").output
    assert "second" in table
    assert "sleep 1" in table
    shown = run("jobs", "show", "job-4").output
    assert "at most 7,200 s, 2 retries, priority 0" in shown
    assert "it has not started yet" in shown
    assert "GPUs now    8 of 8" in run("jobs", "usage").output
    assert "job-4 cancelled: cancelled by key" in run("jobs", "cancel", "job-4").output
    assert run("jobs", "show", "job-77").exit_code == 2


def test_a_wrong_duration_is_a_usage_error_and_a_reason_ends_with_one_full_stop(
    run: Callable[..., Result], api: Api
) -> None:
    done = run("submit", "--entrypoint", "x", "--max-time", "-1h")
    assert done.exit_code == 2
    assert "is not a duration" in done.output
    api.gateway.controller.problem = "Ray does not answer. Check it."
    assert run("submit", "--entrypoint", "x").output.startswith(
        "job-1 is next in the queue: Ray does not answer. Check it.\n"
    )


def test_a_long_command_does_not_fill_the_list(run: Callable[..., Result]) -> None:
    run("submit", "--entrypoint", "echo " + "x" * 5_000)
    table = run("jobs", "list").output
    assert "echo xxx" in table
    assert len(table) < 3_000
    assert "x" * 5_000 in run("jobs", "show", "job-1").output.replace("\n", "")


def test_refusals_are_one_sentence_and_exit_code_2(run: Callable[..., Result]) -> None:
    for arguments, words in (
        (("--entrypoint", "x", "--gpus", "9"), "error: the job needs 9 GPUs"),
        (("train", "cpt", "trian.seed=1", "run=a"), "Did you mean train"),
        (("--entrypoint", "x", "--node-label", "a"), "--node-label a has no value"),
        (("--entrypoint", "x", "--name", "../a"), "error: name is '../a'"),
    ):
        done = run("submit", *arguments)
        assert done.exit_code == 2, done.output
        assert words in done.output


def test_follow_prints_the_log_of_all_attempts_and_then_how_the_job_ended(
    run: Callable[..., Result], api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, acts = api.gateway.cluster, []

    def act(seconds: float) -> None:
        acts.append(seconds)
        if len(acts) in (2, 4):
            status = "failed" if len(acts) == 2 else "succeeded"
            cluster.end(cluster.active()[0], status, exit_code=1, message="boom")
        api.gateway.step()

    monkeypatch.setattr("brew_cluster.cli.views.jobs.follow_job.__kwdefaults__", {"sleep": act})
    done = run("submit", "--entrypoint", "x", "--follow")
    assert done.output.splitlines() == [
        "job-1 is next in the queue.",
        "job-1 runs.",
        "log of brew360-job-1-1",
        "job-1 runs (attempt 2).",
        "log of brew360-job-1-2",
        "job-1 succeeded (attempt 2).",
    ]
    assert done.exit_code == 0
    assert run("jobs", "logs", "job-1").output == "log of brew360-job-1-1\nlog of brew360-job-1-2\n"


def test_a_call_that_is_repeated_says_why_once() -> None:
    answers = [httpx.Response(503, json={"error": "Ray does not answer", "code": "overloaded"}) for _ in range(3)]
    ended = httpx.Response(200, json=[])
    transport = httpx.MockTransport(lambda request: answers.pop() if answers else ended)
    said: list[str] = []
    with JobClient(
        "http://test",
        transport=transport,
        sleep=lambda seconds: None,
        on_wait=lambda failure: said.append(str(failure)),
    ) as client:
        assert client.jobs() == []
    assert len(said) == 1
    assert "Ray does not answer" in said[0]


def test_ctrl_c_detaches(run: Callable[..., Result], api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("brew_cluster.cli.views.jobs.follow_job.__kwdefaults__", {"sleep": interrupt})
    done = run("submit", "--entrypoint", "x", "--follow")
    assert done.exit_code == 130
    assert "detached; job-1 continues. Follow it again with `brew360 jobs logs job-1 --follow`" in done.output
    assert api.show("job-1")["state"] == "queued"


def test_a_log_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    write_log("a\x1b[31mred\tb\r\nlast")
    assert capsys.readouterr().out == "a\\x1b[31mred\tb\nlast"


def test_the_audit_log_is_printed_as_lines_of_json(
    run: Callable[..., Result], api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("submit", "--entrypoint", "x").exit_code == 0
    refused = run("jobs", "audit")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "needs a key with the scope admin" in refused.stderr
    monkeypatch.setattr(jobs, "open_job_client", lambda *arguments, **options: api.client("ops"))
    events = [json.loads(line) for line in run("jobs", "audit").stdout.splitlines()]
    assert [(event["number"], event["kind"]) for event in events] == [(1, "accept"), (2, "refuse")]
    assert len(run("jobs", "audit", "--after", "1").stdout.splitlines()) == 1

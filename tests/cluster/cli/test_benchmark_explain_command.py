"""`brew360 benchmark explain`: what it prints and writes, what its log lacks, and what it refuses."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from brew_cluster.cli.main import app
from brew_data.data_folder import DataFolder
from brew_serve.engines.torch import TorchEngine


@pytest.fixture
def brew360(tiny_export: Path, built_folder: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Explain":
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("brew_cluster.cli.runner.kill_descendants", lambda: None)  # of the tests' process
    monkeypatch.setattr("brew_cluster.cli.runner.become_subreaper", lambda: None)
    return Explain(tiny_export, built_folder.folder)


class Explain:
    """Runs the command on the tiny version."""

    def __init__(self, export: Path, data: Path) -> None:
        self.export, self.data = export, data

    def __call__(self, *arguments: str) -> Result:
        command = ["benchmark", "explain", str(self.export), "--data", str(self.data), "engine.kind=torch"]
        return CliRunner(env={"COLUMNS": "200"}).invoke(app, [*command, *arguments])


def test_the_prompt_the_labels_and_the_largest_changes_are_printed(brew360: Explain, tmp_path: Path) -> None:
    done = brew360("--member", "ada", "--interaction", "5", "--top", "2", "--report", "r/e.json")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "task buy, interaction 5 of member ada, 1970-01-01T00:00:05+00:00" in lines[0]
    for line in (
        "profile       <|member|>Berlin\\n",
        "turn 2        <|user|>product\\nOak chair\\n<|assistant|>bought",
        "2 of 6 parts; --top shows more, --json and --report all.",
        "note: Other tasks on this surface: buy_again; --task chooses one.",
        "report: r/e.json (also .md and .html)",
    ):
        assert line in lines
    assert "The member's action: viewed." in done.stdout
    document = json.loads((tmp_path / "r/e.json").read_text())
    assert f"P(positive): {document['score']:.4f}" in done.stdout
    changes = [f"{change['change']:+.4f}" for change in document["changes"]]
    table = done.stdout[done.stdout.index("What changes") :]
    assert len(changes) == 6
    assert table.index(changes[0]) < table.index(changes[1])
    assert len([line for line in table.splitlines() if line.startswith("│")]) == 2


def test_json_goes_to_the_standard_output_alone(brew360: Explain) -> None:
    done = brew360("--interaction", "4", "--task", "buy_again", "--json", "--by-log-odds", "--history", "frozen")
    document = json.loads(done.stdout)
    assert (document["origin"]["task"], document["origin"]["history"]) == ("buy_again", "frozen, round_robin")
    assert "[2/2] score" in done.stderr
    sizes = [abs(change["log_odds_change"]) for change in document["changes"]]
    assert sizes == sorted(sizes, reverse=True)


def test_neither_member_nor_prompt_are_logged(
    brew360: Explain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert brew360("--member", "ada").exit_code == 0
    log = tmp_path / "runs/benchmark/logs/explain.log"
    assert "prompts in" in log.read_text()

    async def fail(self: TorchEngine, prompt: list[int], *_: object) -> list[float]:
        raise RuntimeError(f"Berlin {prompt}")

    monkeypatch.setattr(TorchEngine, "next_token_logprobs", fail)
    done = brew360("--member", "ada")
    assert (done.exit_code, "error: RuntimeError" in done.stdout) == (1, True)
    assert brew360("--member", "eve").exit_code == 2
    logged = log.read_text()
    assert "RuntimeError" in logged
    assert not re.search(r"Berlin|Oak|\bada\b|\beve\b", logged)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "there is nothing to explain. Pass --member ID"),
        (["--member", "eve"], "has no member 'eve'"),
        (["--member", "ada", "--report", "e.html"], "does not end in .json"),
        (["--member", "ada", "--history", "frosen"], "frosen"),
        (["--member", "ada", "engine.thread=1"], "Did you mean engine.threads"),
        (["--member", "ada", "--interaction", "99999999999999999999"], "--interaction"),
    ],
)
def test_invalid_input_is_refused_with_one_sentence(brew360: Explain, arguments: list[str], sentence: str) -> None:
    done = brew360(*arguments)
    assert done.exit_code == 2
    assert sentence in done.output
    assert "Traceback" not in done.output

"""`make bench-data`: its steps, its figures and its JSON file, with small files in place of the commands' output."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench.data import __main__ as command
from bench.data.result import FIGURES, scale_figures, show
from bench.data.speed import KINDS, PEERS, summarize
from bench.data.texts import write_texts
from rich.console import Console
from tokenizers import Tokenizer as FastTokenizer

from brew_cluster.jobs.dataset_config import load_dataset_config
from brew_cluster.releases.steps import StepRecord
from brew_data.packed_bins.plan import BinsFile, BinsPlan, digest_file
from brew_data.prompts.tokenizer import train_tokenizer
from brew_platform.console.plain_console import PlainConsole

ROOT = Path(__file__).parents[1]
ISSUED = {
    "ours_tokens_per_second", "peer_tokens_per_second", "ratio", "fill", "interactions_per_second", "peak_rss_gb_5m",
    "peak_rss_gb_500k", "time_ratio_5m_500k", "pii_recall", "pii_precision",
}  # fmt: skip


def test_figures_of_two_builds_are_ratios_of_the_large_one_to_the_small_one() -> None:
    small = {"interactions": 500, "seconds": 10.0, "peak_bytes": 4e9}
    large = {"interactions": 5000, "seconds": 120.0, "peak_bytes": 5e9}
    assert scale_figures(small, large) == {
        "interactions_per_second": pytest.approx(5000 / 120),
        "peak_rss_gb_500k": 4.0,
        "peak_rss_gb_5m": 5.0,
        "memory_ratio_5m_500k": 1.25,
        "time_ratio_5m_500k": pytest.approx(1.2),
    }


def report(tokens: int, seconds: float) -> dict[str, Any]:
    return {"tokens": tokens, "seconds": seconds, "fill": 0.9, "same_length": 0.99}


def test_the_peer_is_the_faster_of_its_settings_by_the_median_of_the_rounds() -> None:
    threads, processes = PEERS
    rounds = [
        {"ours": report(800, seconds), threads: report(100, 1.0), processes: report(100, other)}
        for seconds, other in [(1.0, 0.5), (2.0, 0.25), (8.0, 4.0)]
    ]
    found = summarize(rounds)
    assert (found["ours_tokens_per_second"], found["peer_tokens_per_second"]) == (400.0, 200.0)
    assert (found["ratio"], found["peer"], found["same_length"]) == (2.0, processes, 0.99)


class FinishedSteps:
    """Steps whose commands have written their output."""

    def __init__(self, folder: Path, console: Console, names: Sequence[str]) -> None:
        self.names, self.records, self.commands = list(names), {}, []
        FinishedSteps.last = self

    def run(self, name: str, arguments: Sequence[str], *, output: Path, **_: Any) -> Path:
        assert name == self.names[len(self.records)]
        self.commands.append(list(arguments))
        self.records[name] = StepRecord(key="k", finished=True, seconds=10.0, peak_bytes=2_000_000_000)
        output.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("build"):
            output.mkdir()
            bins = {"n_documents": 3, "n_tokens": 9000, "fill": 0.99}
            rows = int(name.removeprefix("build-"))
            card = {"rows": rows, "members": 9, "seconds": {"tables": 1.0, "bins": 2.5}, "bins": {"bins": bins}}
            (output / "card.json").write_text(json.dumps(card))
        elif name == "speed":
            rounds = [{"ours": report(800, 1.0)} | {peer: report(100, 1.0) for peer in PEERS}]
            output.write_text(json.dumps(dict.fromkeys(KINDS, summarize(rounds) | {"rounds": rounds})))
        else:
            output.write_text(json.dumps({"recall": 0.985, "precision": 0.97}))
        return output

    last: "FinishedSteps"


@pytest.mark.parametrize("source", ["synthetic", "economic_graph"])
def test_the_file_has_every_figure(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Steps", FinishedSteps)
    options = command.parse(["--quick", "--source", source])
    options = replace(options, folder=tmp_path / "run", out=tmp_path / "out/data.json")
    console = Console(record=True, width=160, file=io.StringIO())
    command.run(options, console)  # type: ignore[arg-type]
    content = json.loads((tmp_path / "out/data.json").read_text())
    assert set(FIGURES) >= ISSUED
    assert all(content[name] is not None for name in FIGURES)
    assert content["time_ratio_5m_500k"] == pytest.approx(0.5)  # the same time for twice the interactions
    assert {"machine", "versions", "date", "commit", "builds", "speed", "contacts"} <= set(content)
    text = console.export_text()
    for shown in (*FIGURES, "0.985", "40,000 interactions, 9,000 tokens: 10 s (tables 1, bins 2)"):
        assert shown in text
    assert FinishedSteps.last.names == ["build-20000", "build-40000", "speed", "contacts"]
    assert f"source_config.members={400}" in FinishedSteps.last.commands[1]


def test_parts_that_are_not_run_leave_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Steps", FinishedSteps)
    options = replace(command.parse(["--quick", "--only", "contacts"]), folder=tmp_path, out=tmp_path / "data.json")
    content = command.run(options, PlainConsole(file=io.StringIO()))
    assert {name for name in FIGURES if content[name] is not None} == {"pii_recall", "pii_precision"}
    show(content, Console(file=io.StringIO()))


def test_quick_runs_have_their_own_folder_and_file() -> None:
    options = command.parse(["--quick"])
    assert (options.folder, options.out) == (Path("runs/bench-data-quick"), Path("bench/out/data-quick.json"))
    assert (options.interactions, options.large, options.rounds) == (20_000, 40_000, 1)
    for source, shares in command.SOURCES.items():  # fewer members have none for evaluation
        assert shares["members"] * options.interactions / command.INTERACTIONS_PER_MEMBER >= 150, source
    full = command.parse(["--only", "scale"])
    assert (full.interactions, full.large, full.only) == (500_000, 5_000_000, ["scale"])


@pytest.mark.parametrize("source", sorted(command.SOURCES))
def test_recipes_take_the_sizes_and_make_bins_of_4096_tokens(source: str) -> None:
    sizes = [f"source_config.{key}=1000" for key in command.SOURCES[source]]
    config = load_dataset_config(source, [*command.CHATS, *sizes])
    assert (config.prompt.context_length, config.source_config.members) == (4096, 1000)


def test_the_peer_reads_texts_with_the_same_tokens(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["apply for the job of a nurse", "skip <|user|> é"] * 20, vocabulary_size=300)
    documents = [
        [tokenizer.system, *tokenizer.encode("a job"), tokenizer.user, *tokenizer.encode(text), tokenizer.assistant]
        for text in ("nurse", "skip é", "apply\nfor")
    ]
    tokenizer.save(tmp_path)
    bins = tmp_path / "bins"
    bins.mkdir()
    rows = [documents[:2], documents[2:]]
    table = pa.table(
        {
            "bin_id": pa.array([0, 1], pa.int64()),
            "input_ids": pa.array([np.concatenate(row) for row in rows], pa.list_(pa.int32())),
            "doc_lengths": pa.array([list(map(len, row)) for row in rows], pa.list_(pa.int32())),
            "roles": pa.array([[0] * sum(map(len, row)) for row in rows], pa.list_(pa.uint8())),
        }
    )
    path = bins / "bins-000000.parquet"
    pq.write_table(table, path)
    tokens = sum(map(len, documents))
    file = BinsFile(name=path.name, sha256=digest_file(path), bytes=path.stat().st_size, bins=2)
    BinsPlan(
        context_length=64, vocabulary_size=tokenizer.vocabulary_size, prompt_digest="", n_bins=2, n_documents=3,
        n_tokens=tokens, fill=tokens / 128, files=[file],
    ).sealed().write(bins)  # fmt: skip
    write_texts(bins, tmp_path / "tokenizer.json", tmp_path / "texts.parquet")
    written = pq.read_table(tmp_path / "texts.parquet")
    fast = FastTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [fast.encode(text, add_special_tokens=False).ids for text in written["text"].to_pylist()] == documents
    assert written["length"].to_pylist() == list(map(len, documents))


@pytest.mark.real
@pytest.mark.ray
def test_two_small_builds_are_measured(tmp_path: Path) -> None:
    arguments = ["--only", "scale", "--interactions", "16000", "--large", "24000", "--source", "synthetic"]
    arguments += ["--folder", str(tmp_path / "run"), "--out", str(tmp_path / "data.json")]
    for _ in range(2):  # the second time nothing is built
        done = subprocess.run(
            [sys.executable, "-m", "bench.data", *arguments],
            cwd=ROOT, env={**os.environ, "COLUMNS": "160"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("done before") == 2
    content = json.loads((tmp_path / "data.json").read_text())
    assert content["peak_rss_gb_5m"] > 0.1
    assert content["builds"]["large"]["interactions"] > content["builds"]["small"]["interactions"] > 1000

"""The evaluation of live traffic: figures by role and version, shadows in pairs, and what cannot be joined."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from brew_cluster.cli.commands.benchmark_online import register
from brew_cluster.jobs.benchmark_online import evaluate_online, read_events, write_online
from brew_data.data_folder import DataFolder
from brew_data.privacy.pseudonyms import Pseudonyms
from brew_eval.evaluation import evaluate
from brew_eval.measurement import EvaluationConfig
from brew_eval.scored_rows import ScoredRows, ScoredRowsInfo
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import DataError, UserError
from brew_serve.ranking.answer_log import LOGGED_ANSWERS

KEY = Pseudonyms(b"0123456789abcdef")
CONFIG = EvaluationConfig(replicates=20)
REQUESTS, CANDIDATES = 40, 3
WINDOW = 500


def answers(version: int, role: str, requests: range, **changes: Any) -> pa.Table:
    """Return answers, each a thousand microseconds after the other; a member has two requests."""
    draw = random.Random(version)
    rows = []
    for request in requests:
        for candidate in range(CANDIDATES):
            score = draw.random()
            rows.append(
                {
                    "request_id": f"r{request}", "entity_id": KEY.of_entity(f"e{candidate}"), "time": request * 1_000,
                    "version": version, "role": role, "task": "buy", "surface": "shop", "is_trained": True,
                    "member": KEY.of("ada" if request < 2 else f"m{request // 2}"), "history": request,
                    "locale": None, "score": score, "probabilities": [score, 1 - score], "returned": True, **changes,
                }
            )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=LOGGED_ANSWERS)


def events_of(requests: range, delay: int = 400) -> pa.Table:
    """Return one event per request: the candidate with the request's number modulo three is bought or viewed."""
    rows = [
        {
            "request_id": f"r{n}", "entity_id": f"e{n % CANDIDATES}", "action": "viewed" if n % 5 == 0 else "bought",
            "time": n * 1_000 + delay,
        }
        for n in requests
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of production, a canary on the last ten requests, and a shadow of all."""
    folder = tmp_path / "answers" / "2026-11-30"
    folder.mkdir(parents=True)
    for name, table in {
        "a": answers(7, "production", range(30)),
        "b": answers(8, "canary", range(30, 40)),
        "c": answers(9, "shadow", range(40)),
    }.items():
        pq.write_table(table, folder / f"{name}.parquet")
    return folder.parent


def test_each_version_has_the_figures_of_its_rows(log: Path, built_folder: DataFolder, tmp_path: Path) -> None:
    events = events_of(range(REQUESTS))
    found = evaluate_online(str(log), events, built_folder, window=WINDOW, until=60_000, key=KEY, config=CONFIG)
    assert [arm.name for arm in found.arms] == ["canary-8", "production-7", "shadow-9"]
    production = found.arms[1]
    assert (production.joined, production.unjoined, production.too_young) == (30, 60, 0)
    assert (found.events, found.known_events, found.replaced) == (40, 40, 0)

    served = answers(7, "production", range(30)).to_pylist()
    bought = {(f"r{n}", KEY.of_entity(f"e{n % CANDIDATES}")) for n in range(30) if n % 5}
    columns = ("task", "surface", "member", "history", "is_trained", "score")
    offline = {name: [row[name] for row in served] for name in columns}
    offline |= {
        "row_id": list(range(len(served))),
        "time": [round(row["time"].timestamp() * 1e6) for row in served],
        "label": [(row["request_id"], row["entity_id"]) in bought for row in served],
        "slate": [int(row["request_id"][1:]) for row in served],
    }
    info = ScoredRowsInfo(model="m", suite="s", data_digest="d")
    expected = evaluate(ScoredRows.of(pa.table(offline), info), config=CONFIG).tasks["buy"].figures
    for name, figure in production.report.tasks["buy"].figures.items():
        assert figure.value == pytest.approx(expected[name].value), name

    assert set(production.rows.table["locale"].to_pylist()) == {"en", None}, "of ada, from the data"
    assert set(found.comparisons) == {("production-7", "shadow-9"), ("canary-8", "shadow-9")}
    pair = found.comparisons["production-7", "shadow-9"].tasks["buy"]
    assert pair.rows == 90
    assert pair.figures["auc"].a.value == pytest.approx(expected["auc"].value)
    write_online(found, tmp_path / "out/online.json", PlainConsole())
    summary = json.loads((tmp_path / "out/online.json").read_text())
    assert [item["report"] for item in summary["versions"]] == [f"online-{arm.name}.json" for arm in found.arms]
    for name in ("canary-8", "production-7", "shadow-9", "production-7-and-shadow-9", "canary-8-and-shadow-9"):
        assert (tmp_path / f"out/online-{name}.html").is_file()
    assert len(ScoredRows.read(tmp_path / "out/online-canary-8.parquet")) == 30


def test_answers_whose_window_is_open_are_in_no_figure(log: Path, built_folder: DataFolder) -> None:
    events = events_of(range(20))  # the last one is at 19,400
    (found,) = evaluate_online(str(log), events, built_folder, window=WINDOW, versions=[7], key=KEY, config=CONFIG).arms
    assert (found.joined, found.unjoined) == (19 + 1, 2 * 19)
    assert found.too_young == 90 - 20 - 38, "those of the last request with an event, too"
    assert found.report.tasks["buy"].counts.without_label == found.too_young
    late = evaluate_online(
        str(log), events_of(range(40), delay=600), built_folder, window=WINDOW, key=KEY, config=CONFIG
    )
    assert sum(arm.joined for arm in late.arms) == 0


def test_interactions_without_request_ids_give_the_same_rows(log: Path, built_folder: DataFolder) -> None:
    events = events_of(range(REQUESTS))
    member = ["ada" if n < 2 else f"m{n // 2}" for n in range(REQUESTS)]
    interactions = pa.table(
        {
            "member_id": member, "entity_id": events["entity_id"], "surface": ["shop"] * REQUESTS,
            "action": events["action"], "timestamp": events["time"].cast(pa.timestamp("us", tz="UTC")),
        }
    )  # fmt: skip
    of_both = [
        evaluate_online(str(log), table, built_folder, window=WINDOW, until=60_000, key=KEY, config=CONFIG)
        for table in (events, interactions)
    ]
    # "buy_again" has no answers, so the interactions are events of one task
    assert [arm.rows.digest for arm in of_both[0].arms] == [arm.rows.digest for arm in of_both[1].arms]


def test_what_cannot_be_evaluated_is_refused(log: Path, built_folder: DataFolder, tmp_path: Path) -> None:
    def run(events: pa.Table, answered: Path = log, **changes: Any) -> None:
        evaluate_online(
            str(answered), events, built_folder, **{"window": WINDOW, "key": KEY, "config": CONFIG, **changes}
        )

    with pytest.raises(UserError, match="none of the 40 events is of a logged answer.*and the key of the log"):
        run(events_of(range(40)), key=None)
    with pytest.raises(UserError, match="there are no events"):
        run(events_of(range(40)).slice(0, 0))
    with pytest.raises(UserError, match="no answers of version 5"):
        run(events_of(range(40)), versions=[7, 5])
    with pytest.raises(DataError, match="has no logged answers"):
        run(events_of(range(40)), tmp_path / "nowhere")
    folder = tmp_path / "other"
    folder.mkdir()
    pq.write_table(answers(7, "production", range(40), task="rent"), folder / "a.parquet")
    with pytest.raises(UserError, match="answers of the task 'rent', which the suite of .* lacks"):
        run(events_of(range(40)), folder)


def test_events_are_files_or_interactions(built_folder: DataFolder, tmp_path: Path) -> None:
    for number, events in enumerate([events_of(range(3)), events_of(range(3, 5))]):
        pq.write_table(events, tmp_path / f"{number}.parquet")
    assert read_events(tmp_path).num_rows == 5
    assert read_events(tmp_path / "0.parquet").column_names == ["request_id", "entity_id", "action", "time"]
    for folder in (built_folder.folder, built_folder.tables_folder):
        assert "timestamp" in read_events(folder).column_names
    pq.write_table(pa.table({"x": [1]}), tmp_path / "0.parquet")
    with pytest.raises(DataError, match=r"0\.parquet has the columns x, but events need request_id"):
        read_events(tmp_path)
    with pytest.raises(DataError, match="has no events"):
        read_events(tmp_path / "nowhere")


def test_the_command_prints_what_was_joined(
    log: Path, built_folder: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    pq.write_table(events_of(range(40)), tmp_path / "events.parquet")
    monkeypatch.setenv("ANSWERS_KEY", "0123456789abcdef")
    monkeypatch.setenv("COLUMNS", "200")
    arguments = [
        "online",
        "--answers",
        str(log),
        "--events",
        str(tmp_path / "events.parquet"),
        "--key-env",
        "ANSWERS_KEY",
    ]
    arguments += ["--data", str(built_folder.folder), "--report", str(tmp_path / "o/r.json"), "--replicates", "10"]
    result = CliRunner().invoke(app, [*arguments, "--version", "7", "--window", "1d", "--until", "1970-01-03"])
    assert result.exit_code == 0, result.output
    assert "40 of 40 events are of logged answers" in result.output
    counts = next(line for line in result.output.splitlines() if "production" in line)
    assert [word for word in counts.split() if word.isdecimal()] == ["7", "30", "60", "0"]
    young = CliRunner().invoke(app, [*arguments, "--window", "1d"])
    assert young.exit_code == 0, young.output
    assert json.loads((tmp_path / "o/r.json").read_text())["until"] == 39_400

"""Resumable batches: the plan, the parts, the prompts, and the errors of rows that cannot be scored."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brew_data.prompts.compiler import PastInteraction
from brew_data.schema import Tables
from brew_platform.errors import DataError, UserError
from brew_serve.batch.dataset_scoring import score_table
from brew_serve.batch.part_scoring import SCORED, _deserialize, _join_scores, make_prompts
from brew_serve.batch.plan import BatchPlan, Part, write_part
from brew_serve.context.base import MemberContext
from brew_serve.engines.config import EngineConfig
from brew_serve.ranking.scoring import Scorer
from brew_serve.ranking.service import RankingService
from brew_serve.schemas.rank import RankRequest
from brew_serve.version import LoadedVersion

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

ROW = {"task": "job_apply", "member_id": "ada", "candidates": ["e0", "e2"]}


def write(path: Path, rows: list[dict[str, Any]], *, group: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            name: pa.array([row[name] for row in rows], kind)
            for name, kind in [
                ("task", pa.string()),
                ("member_id", pa.string()),
                ("candidates", pa.list_(pa.string())),
                ("instruction", pa.string()),
                ("before", pa.timestamp("us", tz="UTC")),
            ]
            if name in rows[0]
        }
    )
    pq.write_table(table, path, row_group_size=group)
    return path


def plan_of(source: Path, rows: int = 4, version: int = 1) -> BatchPlan:
    return BatchPlan.of(source, model="brew360", version=version, engine={}, rows=rows)


# --- The plan ---


def test_parts_cover_every_row_once_in_the_order_of_the_files(tmp_path: Path) -> None:
    write(tmp_path / "in/b.parquet", [ROW | {"member_id": f"b{i}"} for i in range(3)])
    write(tmp_path / "in/a.parquet", [ROW | {"member_id": f"a{i}"} for i in range(23)], group=10)
    write(tmp_path / "in/_hidden.parquet", [ROW])
    plan = plan_of(tmp_path / "in")
    parts = list(plan.parts())
    assert [part.number for part in parts] == list(range(len(parts)))
    assert [part.rows for part in parts] == [4, 4, 2, 4, 4, 2, 3, 3]
    assert [part.first for part in parts] == [0, 4, 8, 10, 14, 18, 20, 23]
    members = [row["member_id"] for part in parts for row in plan.requests(part)]
    assert members == [f"a{i}" for i in range(23)] + [f"b{i}" for i in range(3)]
    assert plan.requests(parts[0])[0] == ROW | {"member_id": "a0", "instruction": None, "before": None}


def test_a_batch_resumes_with_its_plan_and_another_plan_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", [ROW] * 9)
    out = tmp_path / "out"
    assert BatchPlan.read(out) is None
    plan_of(source).begin(out)
    assert BatchPlan.read(out) == plan_of(source)
    (out / ".part-00001.parquet.1.tmp").write_text("half")
    plan_of(source).begin(out)
    assert not list(out.glob(".part-*"))
    with pytest.raises(UserError, match=r"contains another batch: version differs from its plan .*Choose another"):
        plan_of(source, version=2).begin(out)
    with pytest.raises(UserError, match="contains another batch: rows, files differ from its plan"):
        plan_of(write(tmp_path / "other.parquet", [ROW] * 8), rows=2).begin(out)
    (out / "_plan.json").write_text("{}")
    with pytest.raises(UserError, match="is not a plan of a batch"):
        BatchPlan.read(out)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/scores.parquet").write_text("")
    with pytest.raises(UserError, match="taken exists, but does not contain a batch"):
        BatchPlan.read(tmp_path / "taken")


def test_existing_parts_are_not_missing_and_totals_count_failed_candidates(tmp_path: Path) -> None:
    plan = plan_of(write(tmp_path / "in.parquet", [ROW] * 9))
    out = tmp_path / "out"
    plan.begin(out)
    rows = [{"row": 0, "candidate_id": "a", "score": 0.5}, {"row": 0, "candidate_id": "b", "error": "unknown"}]
    table = pa.Table.from_pylist(rows, schema=SCORED)
    write_part(out, 1, table)
    assert [part.number for part in plan.missing(out)] == [0, 2]
    assert sorted(path.name for path in out.iterdir()) == ["_plan.json", "part-00001.parquet"]
    for number in (0, 2):
        write_part(out, number, table)
    assert plan.missing(out) == []
    totals = plan.finish(out)
    assert (totals.rows, totals.candidates, totals.failed) == (9, 6, 3)
    assert json.loads((out / "_done.json").read_text()) == {"rows": 9, "candidates": 6, "failed": 3}
    assert pq.read_table(out).num_rows == 6, "the folder must be a data set, whatever else it holds"


def test_invalid_input_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is neither a Parquet file nor a folder with"):
        plan_of(tmp_path / "nowhere")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(DataError, match=r"text\.parquet cannot be read as Parquet"):
        plan_of(tmp_path / "text.parquet")
    pq.write_table(pa.table({"task": ["a"], "member_id": ["b"]}), tmp_path / "lacks.parquet")
    with pytest.raises(DataError, match=r"lacks column 'candidates' \(it has task, member_id\)"):
        plan_of(tmp_path / "lacks.parquet")
    pq.write_table(pa.table({"task": ["a"], "member_id": [1], "candidates": [["x"]]}), tmp_path / "type.parquet")
    with pytest.raises(DataError, match="column 'member_id' is int64, but must be string"):
        plan_of(tmp_path / "type.parquet")


def test_input_that_changes_during_a_batch_is_an_error(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", [ROW] * 9)
    plan = plan_of(source)
    write(source, [ROW] * 6)
    with pytest.raises(DataError, match="has changed since the batch was started"):
        plan.requests(list(plan.parts())[-1])
    source.unlink()
    with pytest.raises(DataError, match=r"cannot be read .*Restore it and run again"):
        plan.requests(next(plan.parts()))


# --- Prompts and scores ---


@pytest.fixture
def context_path(tables: Tables, tmp_path: Path) -> Path:
    path = tmp_path / "context.sqlite"
    MemberContext.build(tables, path)
    return path


def scored(
    rows: list[dict[str, Any]], service: RankingService, context_path: Path, folder: Path
) -> list[dict[str, Any]]:
    """Return the scored rows of a batch of one part, with the steps of a real batch but without Ray."""
    plan = plan_of(write(folder / "rows.parquet", rows), rows=100)
    (part,) = plan.parts()
    batch = pa.Table.from_pylist([vars(part)])
    assert Part(**batch.to_pylist()[0]) == part
    compiled = make_prompts(
        batch, plan=plan, version_folder=service.version.folder, engine=EngineConfig(), context_path=context_path
    )
    (row,) = compiled.to_pylist()
    listed, prompts = _deserialize(row["listed"]), _deserialize(row["prompts"])
    scorer = Scorer(service.engine, service.version.compiler)
    table = _join_scores(listed, asyncio.run(score_table(scorer, prompts, version=None, in_flight=4)), 7)
    assert table.schema == SCORED
    answer: list[dict[str, Any]] = table.to_pylist()
    return answer


def test_batch_scores_equal_online_scores(service: RankingService, context_path: Path, tmp_path: Path) -> None:
    rows = [
        ROW | {"candidates": ["e0", "e2", "e4"], "instruction": None},
        {"task": "post_interest", "member_id": "ada", "candidates": ["e1", "e3"], "instruction": "Something short."},
        ROW | {"member_id": "new", "instruction": "Something short. " * 30},
    ]
    got = scored(rows, service, context_path, tmp_path)
    expected, cuts = [], []
    for number, row in enumerate(rows):
        request = RankRequest(**(row | {"instruction": row["instruction"] or ""}))
        answer = asyncio.run(service.rank(request)).response
        by_id = {item.id: item for item in answer.ranking}
        expected += [(number, row["task"], row["member_id"], id_, by_id[id_]) for id_ in row["candidates"]]
        cuts += [
            (
                answer.truncated.turns_dropped,
                answer.truncated.head_tokens_dropped
                + answer.truncated.history_tokens_dropped
                + answer.truncated.candidates.get(id_, 0),
            )
            for id_ in row["candidates"]
        ]
    assert [(row["turns_dropped"], row["tokens_cut"]) for row in got] == cuts
    assert cuts[0][1] == 0 < cuts[-1][1]
    assert len(got) == len(expected) == 7
    for row, (number, task, member, id_, item) in zip(got, expected, strict=True):
        assert (row["row"], row["task"], row["member_id"], row["candidate_id"]) == (number, task, member, id_)
        assert (row["version"], row["error"]) == (7, None)
        assert row["score"] == pytest.approx(item.score, abs=1e-6)
        assert {p["action"]: p["probability"] for p in row["probabilities"]} == pytest.approx(
            item.probabilities, abs=1e-6
        )


def test_rows_that_cannot_be_scored_have_an_error_and_stop_no_others(
    service: RankingService, context_path: Path, tmp_path: Path
) -> None:
    rows = [
        ROW | {"member_id": "gone"},
        ROW | {"candidates": ["e0", "nowhere", "e1", "e2"]},
        ROW | {"task": "mars"},
        ROW | {"candidates": []},
        ROW | {"member_id": None, "candidates": ["e0"]},
        ROW,
    ]
    got = scored(rows, service, context_path, tmp_path)
    rows = [(row["row"], row["candidate_id"], row["score"] is None, (row["error"] or "")[:22]) for row in got]
    assert rows == [
        (0, "e0", True, "member 'gone' is unkno"),
        (0, "e2", True, "member 'gone' is unkno"),
        (1, "e0", False, ""),
        (1, "nowhere", True, "candidate 'nowhere' is"),
        (1, "e1", True, "task job_apply ranks e"),
        (1, "e2", False, ""),
        (2, "e0", True, "task 'mars' is unknown"),
        (2, "e2", True, "task 'mars' is unknown"),
        (4, "e0", True, "member None is unknown"),
        (5, "e0", False, ""),
        (5, "e2", False, ""),
    ]
    again = {(row["row"], row["candidate_id"]): row["score"] for row in got}
    assert again[(1, "e2")] == pytest.approx(again[(5, "e2")])


def test_before_hides_later_interactions(
    service: RankingService, version: LoadedVersion, context_path: Path, tmp_path: Path, history: list[PastInteraction]
) -> None:
    cut = datetime(1970, 1, 1, 0, 0, 3, tzinfo=UTC)
    early, late = scored([ROW | {"before": cut}, ROW | {"before": None}], service, context_path, tmp_path)[::2]
    assert early["score"] != late["score"]
    task = version.suite.task("job_apply")
    profile = {"title": "engineer", "location": "berlin"}
    shown = [past for past in history if past.timestamp < 3_000_000]
    alone = asyncio.run(
        Scorer(service.engine, version.compiler).rank(task, profile, shown, [("e0", history[0].entity)])
    )
    assert early["score"] == pytest.approx(alone.candidates[0].score, abs=1e-6)

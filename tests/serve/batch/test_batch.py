"""Resumable batches: the plan, the parts, the prompts, and the errors of rows that cannot be scored."""

import asyncio
import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brew_data.privacy.config import PrivacyConfig
from brew_data.privacy.pseudonyms import PseudonymConfig
from brew_data.privacy.table_privacy import make_private
from brew_data.prompts.compiler import PastInteraction
from brew_data.prompts.history import HistoryPolicy
from brew_data.schema import Tables
from brew_platform.errors import BrewError, DataError, UserError
from brew_serve.batch.dataset_scoring import score_candidates, score_table
from brew_serve.batch.part_scoring import SCORED, _deserialize, join_scores, make_prompts, read_parts, score_in_passes
from brew_serve.batch.plan import BatchPlan, Part, write_part
from brew_serve.batch.quarantine import ABANDONED, Attempts
from brew_serve.context.base import MemberContext
from brew_serve.engines.base import Shared
from brew_serve.engines.config import EngineConfig
from brew_serve.engines.logprobs import InvalidOutput
from brew_serve.ranking.scoring import Scored, Scorer, distinct
from brew_serve.ranking.service import RankingService
from brew_serve.schemas.rank import RankRequest
from brew_serve.version import LoadedVersion, load_version

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
    return BatchPlan.of(source, model="brew360", version=version, engine={}, context="c", rows=rows)


def rows_of(plan: BatchPlan, parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [row for _, table in plan.requests(parts) for row in table.to_pylist()]


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
    members = [row["member_id"] for part in parts for row in rows_of(plan, [part])]
    assert members == [f"a{i}" for i in range(23)] + [f"b{i}" for i in range(3)]
    assert rows_of(plan, parts[:1])[0] == ROW | {"member_id": "a0", "instruction": None, "before": None}


def test_a_row_group_is_decoded_once_whatever_its_number_of_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(write(tmp_path / "in.parquet", [ROW | {"member_id": str(i)} for i in range(40)], group=20), rows=2)
    decoded: list[int] = []
    read = pq.ParquetFile.iter_batches

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        for batch in read(self, *arguments, **options):
            decoded.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    parts = [part for part in plan.parts() if part.number not in (0, 3, 19)]  # these have a file
    groups = [[vars(part) for part in parts if part.group == group] for group in (0, 1)]
    read_rows = []
    for group in groups:
        for row in read_parts(pa.Table.from_pylist([{"parts": group}]), plan=plan):
            (fields,) = row.to_pylist()
            read_rows += [request["member_id"] for request in _deserialize(fields.pop("requests")).to_pylist()]
            assert Part(**fields) in parts
    assert read_rows == [str(i) for part in parts for i in range(part.first, part.first + part.rows)]
    assert sum(decoded) <= 40


@pytest.mark.parametrize(("unit", "value"), [("s", 3), ("ms", 3_000), ("us", 3_000_000), ("ns", 3_000_000_001)])
def test_times_of_any_unit_become_microseconds(tmp_path: Path, unit: str, value: int) -> None:
    late = 2**45 if unit == "s" else 2**63 - 1  # no datetime can hold these
    table = pa.table({name: pa.array([ROW[name]] * 3) for name in ROW})
    path = tmp_path / "in.parquet"
    pq.write_table(table.append_column("before", pa.array([value, None, late], pa.timestamp(unit, "UTC"))), path)
    plan = plan_of(path)
    times = [row["before"] for row in rows_of(plan, list(plan.parts()))]
    assert times[:2] == [3_000_000, None]
    assert times[2] > 2**52


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


def test_one_process_at_a_time_scores_a_batch(tmp_path: Path) -> None:
    plan, out = plan_of(write(tmp_path / "in.parquet", [ROW])), tmp_path / "out"
    plan.begin(out)
    with plan.locked(out):
        draft = out / ".part-00000.parquet.1.tmp"
        draft.write_text("half")
        with pytest.raises(UserError, match="another process is scoring the batch in .*out. Wait until it ends"):
            plan.begin(out)
        assert draft.exists(), "the other process writes it"
    plan.begin(out)


@pytest.mark.parametrize("groups", [[], [[]], [[], [ROW], []]])
def test_an_input_without_rows_or_with_empty_row_groups_finishes(tmp_path: Path, groups: list[list[Any]]) -> None:
    schema = pa.schema({"task": pa.string(), "member_id": pa.string(), "candidates": pa.list_(pa.string())})
    with pq.ParquetWriter(tmp_path / "in.parquet", schema) as writer:
        for rows in groups:
            writer.write_table(pa.Table.from_pylist(rows, schema))
    plan, out = plan_of(tmp_path / "in.parquet"), tmp_path / "out"
    plan.begin(out)
    for part in plan.missing(out):
        write_part(out, part.number, SCORED.empty_table())
    totals = plan.finish(out)
    assert (totals.rows, totals.candidates, totals.failed, totals.abandoned) == (sum(map(len, groups)), 0, 0, 0)


def test_existing_parts_are_not_missing_and_totals_count_failed_candidates(tmp_path: Path) -> None:
    plan = plan_of(write(tmp_path / "in.parquet", [ROW] * 9))
    out = tmp_path / "out"
    plan.begin(out)
    rows = [{"row": 0, "candidate_id": "a", "score": 0.5}, {"row": 0, "candidate_id": "b", "error": "unknown"}]
    table = pa.Table.from_pylist([*rows, {"row": 1, "error": f"{ABANDONED} 3 passes"}], schema=SCORED)
    write_part(out, 1, table)
    assert [part.number for part in plan.missing(out)] == [0, 2]
    assert sorted(path.name for path in out.iterdir()) == ["_plan.json", "part-00001.parquet"]
    for number in (0, 2):
        write_part(out, number, table)
    assert plan.missing(out) == []
    totals = plan.finish(out)
    assert json.loads((out / "_done.json").read_text()) == {"rows": 9, "candidates": 9, "failed": 6, "abandoned": 3}
    assert vars(totals) == json.loads((out / "_done.json").read_text())
    assert pq.read_table(out).num_rows == 9, "the folder must be a data set, whatever else it holds"
    write_part(out, 2, SCORED.empty_table())  # no candidate is a count, too
    assert plan.finish(out).candidates == 6
    (out / "part-00002.parquet").write_text("half")
    with pytest.raises(DataError, match=r"part-00002.parquet cannot be read .*Delete it, and run again"):
        plan.finish(out)


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
    twice = pa.table([["a"], ["b"], ["c"], [["x"]]], names=["task", "task", "member_id", "candidates"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="has two columns 'task'. Write each column once"):
        plan_of(tmp_path / "twice.parquet")


def test_text_that_is_not_utf8_is_refused_with_the_file(tmp_path: Path) -> None:
    latin = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"], pa.binary()).buffers())
    table = pa.table({"task": latin, "member_id": ["ada"], "candidates": [["e0"]]})
    pq.write_table(table, tmp_path / "in.parquet")
    plan = plan_of(tmp_path / "in.parquet")
    with pytest.raises(DataError, match=r"in.parquet cannot be read \(.*UTF8.*Restore it"):
        rows_of(plan, list(plan.parts()))


def test_input_that_changes_during_a_batch_is_an_error(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", [ROW] * 9)
    plan = plan_of(source)
    write(source, [ROW] * 6)
    with pytest.raises(DataError, match="has changed since the batch was started"):
        rows_of(plan, list(plan.parts())[-1:])
    source.unlink()
    with pytest.raises(DataError, match=r"cannot be read .*Restore it and run again"):
        rows_of(plan, list(plan.parts())[:1])


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
    listed, prompts = compiled(rows, service, context_path, folder)
    scorer = Scorer(service.engine, service.version.compiler)
    attempts = Attempts(folder / "attempts.json", prompts.num_rows, 3)

    def score(some: pa.Table) -> list[Scored | BrewError]:
        return asyncio.run(score_candidates(scorer, some, in_flight=4))

    table = join_scores(listed, score_in_passes(prompts, attempts, score, restart=pytest.fail), 7)
    assert table.schema == SCORED
    answer: list[dict[str, Any]] = table.to_pylist()
    return answer


def compiled(
    rows: list[dict[str, Any]],
    service: RankingService,
    context_path: Path,
    folder: Path,
    history: Mapping[str, HistoryPolicy] = MappingProxyType({}),
    pseudonyms: PseudonymConfig | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Return the candidates and the prompts of a batch of one part."""
    plan = plan_of(write(folder / "rows.parquet", rows), rows=100)
    (part,) = plan.parts()
    (read,) = read_parts(pa.Table.from_pylist([{"parts": [vars(part)]}]), plan=plan)
    table = make_prompts(
        read,
        version_folder=service.version.folder,
        engine=EngineConfig(),
        context_path=str(context_path),
        history=history,
        pseudonyms=pseudonyms,
    )
    (row,) = table.to_pylist()
    return _deserialize(row["listed"]), _deserialize(row["prompts"])


def test_a_batch_names_members_of_a_context_with_pseudonyms_by_their_ids(
    service: RankingService, context_path: Path, tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSEUDONYM_KEY", "0123456789abcdef")
    config = PseudonymConfig(env="PSEUDONYM_KEY")
    private, _ = make_private(tables, PrivacyConfig(pseudonyms=config))
    MemberContext.build(private, tmp_path / "private.sqlite", key_id=config.open().key_id)
    rows = [ROW, ROW | {"member_id": "nobody"}]
    expected = compiled(rows, service, context_path, tmp_path)
    assert compiled(rows, service, tmp_path / "private.sqlite", tmp_path, pseudonyms=config) == expected


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
        ROW | {"candidates": [None]},
        ROW | {"task": None, "candidates": ["e0"]},
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
        (6, None, True, "candidate None is unkn"),
        (7, "e0", True, "task None is unknown; "),
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


def test_a_table_of_broken_rows_only_gets_errors(service: RankingService, context_path: Path, tmp_path: Path) -> None:
    got = scored([ROW | {"member_id": "gone"}, ROW | {"task": "mars"}], service, context_path, tmp_path)
    assert [(row["score"], row["error"] is None) for row in got] == [(None, False)] * 4


def test_the_prefix_of_a_request_is_shared_by_its_candidates(
    service: RankingService, context_path: Path, tmp_path: Path, table_engine: Any
) -> None:
    _, prompts = compiled(
        [ROW | {"candidates": ["e0", "e2", "e4"]}, ROW | {"member_id": "new"}], service, context_path, tmp_path
    )
    calls: list[tuple[tuple[int, ...], Shared]] = []
    answer = table_engine.next_token_logprobs

    async def recorded(prompt: Sequence[int], token_ids: Sequence[int], shared: Shared | None = None) -> list[float]:
        assert shared is not None
        calls.append((tuple(prompt), shared))
        logprobs: list[float] = await answer(prompt, token_ids, shared)
        return logprobs

    table_engine.next_token_logprobs = recorded
    scorer = Scorer(table_engine, service.version.compiler)
    results = asyncio.run(score_candidates(scorer, prompts, in_flight=2))
    assert len(results) == len(calls) == 5
    assert len({id(shared) for _, shared in calls}) == 2, "one object per request"
    for (prompt, shared), row in zip(calls, [0, 0, 0, 1, 1], strict=True):
        assert prompt[: len(shared.ids)] == shared.ids
        assert len(shared.ids) >= len(prompts["prefix_ids"][row])


def test_candidates_with_histories_of_their_own_have_the_prompts_of_online_requests(
    service: RankingService, context_path: Path, tmp_path: Path
) -> None:
    history = {"job_apply": HistoryPolicy(surfaces=["jobs", "feed"], name="similarity", max_interactions=1)}
    ids = ["e0", "e2", "nowhere", "e4", "e0"]
    listed, prompts = compiled([ROW | {"candidates": ids}], service, context_path, tmp_path, history)
    context = MemberContext(context_path)
    profile, past = context.member("ada")
    known = [(id_, context.entity(id_)) for id_ in ids if id_ != "nowhere"]
    version = load_version(service.version.folder, history=history)
    online = Scorer(service.engine, version.compiler).compile_prompts(
        version.suite.task("job_apply"), profile, past, known
    )
    prompt_of = {
        place: (*row["prefix_ids"], *question)
        for row in prompts.to_pylist()
        for place, question in zip(row["interaction_ids"], row["question_ids"], strict=True)
    }
    assert prompts.num_rows == len(distinct(online.prefixes)) == 3
    assert [prompt_of[place] for place in (0, 1, 3, 4)] == [
        prefix.ids + question for prefix, (question, _) in zip(online.prefixes, online.questions, strict=True)
    ]
    assert [row["error"] is None for row in listed.to_pylist()] == [True, True, False, True, True]
    context.close()


def test_a_number_that_is_not_a_probability_is_an_error_of_its_candidate(
    service: RankingService, context_path: Path, tmp_path: Path, table_engine: Any
) -> None:
    listed, prompts = compiled([ROW | {"candidates": ["e0", "e2", "e4"]}, ROW], service, context_path, tmp_path)
    answer, broken = table_engine.next_token_logprobs, tuple(prompts["question_ids"][0][1].as_py())

    async def damaged(prompt: Sequence[int], *arguments: Any) -> list[float]:
        values: list[float] = await answer(prompt, *arguments)
        return [math.nan] * len(values) if tuple(prompt)[-len(broken) :] == broken else values

    table_engine.next_token_logprobs = damaged
    scorer = Scorer(table_engine, service.version.compiler)
    results = asyncio.run(score_candidates(scorer, prompts, in_flight=2))
    rows = join_scores(listed, dict(enumerate(results)), 7).to_pylist()
    assert [row["score"] is None for row in rows] == [False, True, False, False, True]
    assert "log-probability" in rows[1]["error"]
    assert rows[1]["probabilities"] is None
    with pytest.raises(InvalidOutput):
        asyncio.run(score_table(scorer, prompts, version=None, in_flight=2))


# --- Requests that end the engine ---


class Actor:
    """Scores the requests of a part with an engine that the requests `deadly` end; `killed` ends the process, too."""

    def __init__(self, path: Path, requests: int, deadly: set[int], *, killed: bool = False, most: int = 3) -> None:
        self.path, self.deadly, self.killed, self.most = path, deadly, killed, most
        self.passes = self.restarts = 0
        self.prompts = pa.table({"interaction_ids": [[2 * i, 2 * i + 1] for i in range(requests)]})

    def run(self) -> dict[int, Scored | BrewError]:
        while True:  # Ray starts the actor again and gives it the same part
            attempts = Attempts(self.path, self.prompts.num_rows, self.most)
            try:
                return score_in_passes(self.prompts, attempts, self.score, self.restart)
            except KeyboardInterrupt:  # stands for the end of the process
                continue

    def score(self, prompts: pa.Table) -> list[Scored | BrewError]:
        self.passes += 1
        ids = [id_ for row in prompts["interaction_ids"].to_pylist() for id_ in row]
        if self.deadly & {id_ // 2 for id_ in ids}:
            raise KeyboardInterrupt if self.killed else BrewError("the engine failed (OutOfMemory).")
        return [Scored(score=id_ / 1000, probabilities={}) for id_ in ids]

    def restart(self) -> None:
        self.restarts += 1


@pytest.mark.parametrize("killed", [False, True], ids=["engine", "process"])
@pytest.mark.parametrize("deadly", [set(), {0}, {3}, {9}, {0, 1}, {2, 7}], ids=str)
def test_only_the_requests_that_end_the_engine_are_abandoned(tmp_path: Path, deadly: set[int], killed: bool) -> None:
    actor = Actor(tmp_path / "attempts/part.json", 10, deadly, killed=killed)
    results = actor.run()
    assert sorted(results) == list(range(20))
    for index, result in results.items():
        if index // 2 in deadly:
            assert str(result).startswith(ABANDONED)
        else:
            assert result == Scored(score=index / 1000, probabilities={})
    assert actor.passes <= (60 if killed else 1 + 8 * len(deadly))
    assert (actor.restarts > 0) == (bool(deadly) and not killed)


@settings(max_examples=30, deadline=None)
@given(deadly=st.sets(st.integers(0, 29), max_size=3), requests=st.integers(1, 30), most=st.integers(1, 4))
def test_every_request_has_one_result_whatever_ends_the_engine(
    tmp_path_factory: pytest.TempPathFactory, deadly: set[int], requests: int, most: int
) -> None:
    actor = Actor(tmp_path_factory.mktemp("a") / "part.json", requests, deadly, most=most)
    results = actor.run()
    assert sorted(results) == list(range(2 * requests))
    abandoned = {index // 2 for index, result in results.items() if isinstance(result, BrewError)}
    assert abandoned == {number for number in deadly if number < requests}


def test_an_engine_that_always_ends_stops_the_run_and_abandons_nothing(tmp_path: Path) -> None:
    actor = Actor(tmp_path / "part.json", 500, set(range(500)))
    with pytest.raises(BrewError, match=r"ended \d+ times in a row, whatever it was given. .*OutOfMemory"):
        actor.run()
    assert actor.passes < 30
    assert not actor.path.exists(), "the next run begins again"


def test_a_full_disk_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    actor = Actor(tmp_path / "part.json", 3, set())
    with pytest.raises(OSError, match="No space"):
        actor.run()
    with pytest.raises(OSError, match="No space"):
        write_part(tmp_path, 0, SCORED.empty_table())
    assert list(tmp_path.iterdir()) == [], "no part, and no draft"


def test_a_damaged_record_of_attempts_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    for text in ("", "{", "[]", '{"segments": [[0, 3, 9]], "current": null, "row": 0}'):
        path.write_text(text)
        assert len(Actor(path, 2, set()).run()) == 4

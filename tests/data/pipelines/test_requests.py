"""Scoring requests of one member, without Ray: all rows after the cut, or the chosen ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from brew_data.pipelines.member_groups import read_members
from brew_data.pipelines.requests import compile_requests
from brew_data.prompts.compiler import Entity, PastInteraction, PromptCompiler
from brew_data.records import MemberHistory
from brew_data.schema import TIMESTAMP, Tables, write_tables

ROWS = [(1, "jobs", "apply", 10), (2, "jobs", "skip", 20), (3, "feed", "like", 30), (4, "jobs", "apply", 30),
        (5, "jobs", "skip", 30), (6, "feed", "skip", 40)]  # fmt: skip


@pytest.fixture
def tables_folder(tmp_path: Path) -> Path:
    columns = list(zip(*ROWS, strict=True))
    table = pa.table(
        {
            "interaction_id": columns[0],
            "member_id": ["ada"] * len(ROWS),
            "entity_id": ["job" if surface == "jobs" else "post" for surface in columns[1]],
            "surface": columns[1],
            "action": columns[2],
            "timestamp": pa.array(columns[3], TIMESTAMP),
        }
    )
    members = {"member_id": ["ada"], "profile": [{"title": "nurse"}], "locale": ["en"], "opted_out": [False]}
    entities = {
        "entity_id": ["job", "post"], "entity_type": ["job", "post"], "created_at": pa.array([0, 0], TIMESTAMP),
        "fields": [{"title": "cook", "topic": None}, {"title": None, "topic": "remote work"}],
    }  # fmt: skip
    write_tables(Tables(members=pa.table(members), entities=pa.table(entities), interactions=table), tmp_path)
    return tmp_path


def test_the_chosen_rows_get_the_same_requests_as_among_all_rows(tables_folder: Path, compiler: PromptCompiler) -> None:
    members = list(read_members(tables_folder, 0, until=99))
    everything = compile_requests(members, compiler, after=15).to_pylist()
    tasks = {task.name for task in compiler.suite.tasks_of("feed")}
    assert sorted((row["task"], *row["interaction_ids"]) for row in everything) == sorted(
        [("job_apply", 2), ("job_apply", 4, 5), *((task, id_) for task in tasks for id_ in (3, 6))]
    )
    only = {"job_apply": np.array([5, 99]), "post_like": np.array([6])}
    chosen = compile_requests(members, compiler, after=15, only=only).to_pylist()
    assert [(row["task"], *row["interaction_ids"]) for row in chosen] == [("job_apply", 5), ("post_like", 6)]
    [pair] = [row for row in everything if row["interaction_ids"] == [4, 5]]
    assert chosen[0]["prefix_ids"] == pair["prefix_ids"]
    assert chosen[0]["question_ids"] == pair["question_ids"][1:]
    assert chosen[1] in everything
    for empty in ({}, {"job_apply": np.array([], np.int64)}, {"job_apply": np.array([1])}):
        assert compile_requests(members, compiler, after=15, only=empty).num_rows == 0


def test_candidates_with_histories_of_their_own_get_requests_of_their_own(compiler: PromptCompiler) -> None:
    task = compiler.suite.task("job_apply")
    policy = replace(task.history, name="similarity", max_interactions=1)
    similar = PromptCompiler(compiler.suite, compiler.tokenizer, compiler.format, {task.name: policy})
    jobs = [("cook", 1), ("nurse", 2), ("cook", 9), ("nurse", 9), ("cook", 9)]
    history = [
        PastInteraction(
            entity=Entity(entity_type="job", fields={"title": title}), surface="jobs", action="apply", timestamp=time
        )
        for title, time in jobs
    ]
    requests = compile_requests([MemberHistory("ada", {}, [0, 1, 2, 3, 4], history)], similar, after=5).to_pylist()
    assert [row["interaction_ids"] for row in requests] == [[2, 4], [3]]
    for row, seen in zip(requests, [0, 1], strict=True):
        prefix = similar.prefix(task, {}, history, candidate=history[seen].entity, before=9)
        assert (row["prefix_ids"], prefix.shown) == (list(prefix.ids), (seen,))
        assert row["question_ids"] == [
            list(similar.question(task, {}, history[id_].entity)[0]) for id_ in row["interaction_ids"]
        ]

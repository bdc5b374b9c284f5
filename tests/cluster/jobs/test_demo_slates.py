"""Slates are from interactions after the cut, one per member, and reproducible."""

import pyarrow as pa

from brew_cluster.jobs.demo_slates import choose_slates
from brew_data.prompts.suite import load_suite
from brew_data.schema import TIMESTAMP, Tables
from brew_data.split import Split


def tables() -> Tables:
    rows = [(m, f"movie{(m + i) % 6}", t) for t in (10, 20) for m in range(5) for i in range(4)]
    return Tables(
        members=pa.table(
            {
                "member_id": [f"m{i}" for i in range(5)],
                "profile": [{"age": "20s"}] * 5,
                "locale": ["en"] * 5,
                "opted_out": [False, False, False, False, True],
            }
        ),
        entities=pa.table(
            {
                "entity_id": [f"movie{i}" for i in range(6)],
                "entity_type": ["movie"] * 6,
                "created_at": pa.array([0] * 6, TIMESTAMP),
                "fields": [{"title": str(i)} for i in range(6)],
            }
        ),
        interactions=pa.table(
            {
                "interaction_id": pa.array(range(len(rows)), pa.int64()),
                "member_id": [f"m{m}" for m, _, _ in rows],
                "entity_id": [entity for _, entity, _ in rows],
                "surface": ["ratings"] * len(rows),
                "action": ["rated_4"] * len(rows),
                "timestamp": pa.array([t for _, _, t in rows], TIMESTAMP),
            }
        ),
    )


def test_slates_are_from_after_the_cut_and_exclude_members_who_opted_out() -> None:
    suite, split = load_suite("movielens"), Split(train_until=10, until=20)
    slates = choose_slates(tables(), suite, split, count=10, size=3)
    assert sorted(slate.member_id for slate in slates) == ["m0", "m1", "m2", "m3"]
    assert all(slate.task == "movie_rating" and len(set(slate.candidates)) == 3 for slate in slates)
    assert slates == choose_slates(tables(), suite, split, count=10, size=3)
    assert [len(slate.candidates) for slate in choose_slates(tables(), suite, split, count=1, size=5)] == [5]
    assert len(choose_slates(tables(), suite, split, count=2, size=3)) == 2

"""Small data of the suite `movielens` for tests of baselines."""

import numpy as np
import pyarrow as pa

from brew_data.prompts.suite import load_suite
from brew_data.schema import TIMESTAMP, Tables
from brew_eval.baselines.interactions import TaskInteractions

SUITE = load_suite("movielens")
TASK = SUITE.task("movie_rating")
DAY = 86_400_000_000


def make_tables(
    members: list[int], entities: list[int], stars: list[int], days: list[float], *, author: bool = False
) -> Tables:
    """Tables of ratings; member 0 is m0, entity 0 is e0; rows are sorted by day."""
    order = np.argsort(days, kind="stable")
    count_M, count_E = max(members) + 1, max(entities) + 1
    columns = {
        "entity_id": [f"e{entity}" for entity in range(count_E)],
        "entity_type": ["movie"] * count_E,
        "created_at": pa.array([0] * count_E, TIMESTAMP),
        "fields": [
            {"title": f"Film {entity} (19{50 + entity % 50})", "genres": "Drama, War" if entity % 2 else "Comedy"}
            for entity in range(count_E)
        ],
    }
    if author:
        columns["author_id"] = pa.array([f"a{entity % 3}" if entity % 4 else None for entity in range(count_E)])
    return Tables(
        members=pa.table(
            {
                "member_id": [f"m{member}" for member in range(count_M)],
                "profile": [{"occupation": "artist" if member % 2 else "nurse"} for member in range(count_M)],
                "locale": ["en"] * count_M,
                "opted_out": [False] * count_M,
            }
        ),
        entities=pa.table(columns),
        interactions=pa.table(
            {
                "interaction_id": pa.array(np.arange(len(order))),
                "member_id": [f"m{members[row]}" for row in order],
                "entity_id": [f"e{entities[row]}" for row in order],
                "surface": ["ratings"] * len(order),
                "action": [f"rated_{stars[row]}" for row in order],
                "timestamp": pa.array([round(days[row] * DAY) for row in order], TIMESTAMP),
            }
        ),
    )


def make_rows(members: list[int], entities: list[int], stars: list[int], days: list[float]) -> TaskInteractions:
    """The interactions of `make_tables` as arrays."""
    return TaskInteractions.of(make_tables(members, entities, stars, days), SUITE, TASK)


def draw_rows(
    count: int = 400, *, members: int = 12, entities: int = 10, seed: int = 0, author: bool = True
) -> TaskInteractions:
    """Ratings in which members and entities have a bias, some at the same second."""
    rng = np.random.default_rng(seed)
    member_N, entity_N = rng.integers(0, members, count), rng.integers(0, entities, count)
    member_N[:members], entity_N[:entities] = np.arange(members), np.arange(entities)
    bias_M, bias_E = rng.normal(0, 0.8, members), rng.normal(0, 0.8, entities)
    stars_N = np.clip(np.round(3.4 + bias_M[member_N] + bias_E[entity_N] + rng.normal(0, 0.6, count)), 1, 5)
    days_N = np.sort(rng.integers(0, count // 2, count)) / 4
    tables = make_tables(
        member_N.tolist(), entity_N.tolist(), stars_N.astype(int).tolist(), days_N.tolist(), author=author
    )
    return TaskInteractions.of(tables, SUITE, TASK)

"""The figures that the synthetic graph borrows are estimated without the noise of few ratings."""

import numpy as np
import pyarrow as pa

from brew_data.schema import TIMESTAMP, Tables
from brew_data.sources.movielens_figures import measure


def test_the_figures_of_drawn_tables_are_their_parameters() -> None:
    rng = np.random.default_rng(0)
    count = 250  # users and movies; every user rates every movie
    users, movies = np.repeat(np.arange(count), count), np.tile(np.arange(count), count)
    logits = 0.8 * rng.standard_normal(count)[users] + 0.5 * rng.standard_normal(count)[movies]
    liked = rng.random(len(users)) < 1 / (1 + np.exp(-logits))
    interactions = pa.table(
        {
            "interaction_id": np.arange(len(users)),
            "member_id": [f"m{u}" for u in users],
            "entity_id": [f"e{i}" for i in movies],
            "surface": ["ratings"] * len(users),
            "action": np.where(liked, "rated_5", "rated_2"),
            "timestamp": pa.array(np.arange(len(users))).cast(TIMESTAMP),
        }
    )
    figures = measure(
        Tables(
            members=pa.table(
                {
                    "member_id": [f"m{u}" for u in range(count)],
                    "profile": [{"age": "30"}] * count,
                    "locale": ["en"] * count,
                    "opted_out": [False] * count,
                }
            ),
            entities=pa.table(
                {
                    "entity_id": [f"e{i}" for i in range(count)],
                    "entity_type": ["movie"] * count,
                    "created_at": pa.array([0] * count).cast(TIMESTAMP),
                    "fields": [{"title": "t"}] * count,
                }
            ),
            interactions=interactions,
        )
    )
    assert abs(figures.user_sd - 0.8) < 0.1
    assert abs(figures.movie_sd - 0.5) < 0.1
    assert abs(figures.like_rate - 0.5) < 0.05
    assert figures.activity_sd < 1e-9

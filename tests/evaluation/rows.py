"""Scored rows of generated members, for tests of the evaluation."""

from typing import Any

import numpy as np
import pyarrow as pa

from brew_eval.scored_rows import ScoredRows, ScoredRowsInfo

DAY = 86_400_000_000


def info(**changes: Any) -> ScoredRowsInfo:
    return ScoredRowsInfo(**{"model": "model", "suite": "suite", "data_digest": "d" * 64, **changes})


def columns(rows: int = 400, *, members: int = 40, seed: int = 0, task: str = "like") -> dict[str, Any]:
    """Return columns of rows: labels are drawn from `best`, the score is `best` with noise, slates have 5 rows."""
    random = np.random.default_rng(seed)
    best = random.uniform(0.02, 0.98, rows)
    logit = np.log(best / (1 - best)) + random.normal(size=rows)
    slate = np.arange(rows) // 5
    return {
        "row_id": np.arange(rows),
        "task": [task] * rows,
        "surface": ["feed"] * rows,
        "member": [f"m{number % members}" for number in slate],
        "time": DAY * 20_000 + np.arange(rows) * DAY // 10,
        "slate": slate,
        "label": random.uniform(size=rows) < best,
        "score": 1 / (1 + np.exp(-logit)),
        "history": (slate * 7 % 150).astype(np.int32),
        "locale": [("de-DE", "en-US", None)[number % 3] for number in slate],
        "is_trained": [True] * rows,
        "best": best,
    }


def scored(data: dict[str, Any], **changes: Any) -> ScoredRows:
    return ScoredRows.of(pa.table(data), info(**changes))

"""Baselines on MovieLens: fits all of them with one cut, and measures them with streaming and frozen histories."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.quality.figures import movielens_figures

from brew_data.prompts.suite import load_suite
from brew_data.schema import micros
from brew_data.sources.movielens import read_movielens
from brew_data.split import Split, SplitConfig
from brew_eval.baselines.scoring import BASELINES, PROTOCOLS, rows_to_score, score_baselines
from brew_eval.scored_rows import ScoredRowsInfo
from brew_platform.config import config_digest
from brew_platform.provenance import source_commit

__all__ = ["measure_movielens"]

TRAIN_SHARE = 0.8


def measure_movielens(
    folder: Path, names: Sequence[str], *, replicates: int, validation: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Fit baselines on the first 80% of the ratings and score the later ones; label: a positive outcome (4 or more).

    Args:
        folder: MovieLens, any release.
        names: Of `BASELINES`.
        replicates: Of the bootstrap over members.
        validation: Cut the training rows again, and score the later ones.

    Yields:
        The name of a baseline and its figures; `interval` has the 95% interval of each.
    """
    tables = read_movielens(folder)
    actions = set(tables.interactions["action"].to_pylist())
    suite = load_suite("movielens_half_stars" if any(action.endswith(".5") for action in actions) else "movielens")
    split = Split.of(
        micros(tables.interactions).to_numpy(), SplitConfig(train_share=TRAIN_SHARE, validation=validation)
    )
    targets = []
    for protocol in PROTOCOLS:
        info = ScoredRowsInfo(
            model="baselines",
            suite=suite.name,
            data_digest=config_digest({"rows": tables.interactions.num_rows, "split": split.train_until}),
            history=protocol,
            commit=source_commit(),
        )
        targets.append(rows_to_score(tables, suite, split, info, suite.tasks[:1]))
    chosen = {name: BASELINES[name] for name in names}
    start = time.monotonic()
    for name, (streaming, frozen) in score_baselines(tables, suite, split, targets, chosen):
        yield name, movielens_figures(streaming, frozen, replicates) | {"seconds": round(time.monotonic() - start, 1)}
        start = time.monotonic()

"""The figures of `make bench-quality` for MovieLens, of a model or a baseline."""

from typing import Any

from brew_eval.evaluation import evaluate
from brew_eval.measurement import EvaluationConfig
from brew_eval.scored_rows import ScoredRows

__all__ = ["COLUMNS", "movielens_figures"]

COLUMNS = {
    "streaming_auc": "AUC",
    "streaming_logloss": "log loss",
    "frozen_auc": "frozen AUC",
    "frozen_uauc": "frozen UAUC",
    "auc_0_4": "AUC, 0-4 past",
}


def movielens_figures(streaming: ScoredRows, frozen: ScoredRows, replicates: int) -> dict[str, Any]:
    """Return the figures of `COLUMNS`, `rows`, `members`, and `interval`: the 95% interval of each figure.

    Args:
        streaming: Scores of one task; a row's history is all that is strictly earlier.
        frozen: The same rows with the history at the end of training.
        replicates: Of the bootstrap over members.
    """
    config = EvaluationConfig(replicates=replicates)
    [moving], [fixed] = (list(evaluate(rows, config=config).tasks.values()) for rows in (streaming, frozen))
    found = {
        "streaming_auc": moving.figures["auc"],
        "streaming_logloss": moving.figures["logloss"],
        "frozen_auc": fixed.figures["auc"],
        "frozen_uauc": fixed.figures["uauc"],
    }
    for part in moving.slices:
        if (part.dimension, part.name) == ("history", "0-4"):
            found["auc_0_4"] = part.figures["auc"]
    return {name: figure.value for name, figure in found.items()} | {
        "rows": moving.counts.used,
        "members": moving.counts.members,
        "interval": {name: [figure.low, figure.high] for name, figure in found.items()},
    }

"""The logistic regression that a benchmark on the synthetic graph shows beside popularity."""

import numpy as np
import pyarrow.compute as pc

from brew_data.schema import Tables, micros
from brew_data.split import Split

__all__ = ["logistic_baseline"]


def logistic_baseline(source: str, tables: Tables, split: Split) -> dict[int, float] | None:
    """Fit the baseline on the training rows, and score the interactions after the cut.

    It has what a prompt has: the fields of profile and entity, their matches, and the member's earlier reactions
    (`brew_data.sources.synthetic.reachability`).

    Args:
        source: Name of the source. Only the matches of the synthetic graph's fields are known.
        tables: The tables of the source.
        split: The cut.

    Returns:
        The probability of a positive outcome by interaction id; None for another source.
    """
    if source != "synthetic":
        return None
    from brew_data.sources.synthetic.reachability import logistic_scores

    out = tables.members.filter(tables.members["opted_out"])["member_id"].combine_chunks()
    times = micros(tables.interactions).to_numpy()
    takes_part = pc.invert(pc.is_in(tables.interactions["member_id"], value_set=out)).to_numpy()
    _, scores = logistic_scores(tables, (times <= split.train_until) & takes_part)
    later = np.flatnonzero(times > split.benchmark_after)
    ids = tables.interactions["interaction_id"].to_numpy()
    return dict(zip(ids[later].tolist(), scores[later].tolist(), strict=True))

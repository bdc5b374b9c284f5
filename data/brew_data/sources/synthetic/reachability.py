"""Measures the AUC of baselines and of the true probability on the synthetic graph.

`python -m brew_data.sources.synthetic.reachability` prints the table of docs/synthetic.md.
Shape suffix: N interactions.
"""

from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brew_data.oracle import true_probabilities
from brew_data.schema import TIMESTAMP, Tables
from brew_data.sources.synthetic import vocabulary as words
from brew_data.sources.synthetic.config import SURFACES, SyntheticConfig, benchmark_start
from brew_data.sources.synthetic.generator import FIELDS, generate
from brew_platform.errors import ConfigError

__all__ = ["Reach", "leaning", "logistic_scores", "measure"]

Array = np.ndarray[Any, Any]


class Reach(NamedTuple):
    """The AUCs of one task on the benchmark month."""

    task: str
    rows: int
    positive_rate: float
    popularity_auc: float  # item mean of earlier months, smoothed with 5 rows of the global mean
    profile_auc: float  # logistic regression on the text of profile and entity
    history_auc: float  # the same, with the member's strictly earlier reactions
    oracle_auc: float  # the true probability

    def share(self, auc: float) -> float:
        """Return the part of the distance from popularity to the oracle that `auc` closes."""
        return (auc - self.popularity_auc) / (self.oracle_auc - self.popularity_auc)


def logistic_scores(tables: Tables, train_N: Array) -> tuple[Array, Array]:
    """Fit a logistic regression for each surface, and score all interactions. The default size takes about 5 s.

    It reads only features that a prompt contains: attributes of profile and entity, their matches, and the member's
    strictly earlier reactions.

    Args:
        tables: The tables of `generate`.
        train_N: bool; the interactions to fit on.

    Returns:
        Two arrays of shape (interactions,): the probability of a positive reaction from the text of profile and entity,
        and the same with the member's earlier reactions.
    """
    from sklearn.linear_model import LogisticRegression

    surface = tables.interactions["surface"].to_numpy()
    y = np.isin(tables.interactions["action"].to_numpy(), [s.positive for s in SURFACES]).astype(np.float64)
    text, keys = _read(tables)

    def fitted(features: Array) -> Array:
        score = np.zeros(len(y))
        for s in SURFACES:
            rows = surface == s.name
            if len(np.unique(y[rows & train_N])) < 2:  # there is nothing to learn
                continue
            model = LogisticRegression(C=0.3, max_iter=60).fit(features[rows & train_N], y[rows & train_N])
            score[rows] = model.predict_proba(features[rows])[:, 1]
        return score

    profile = fitted(text)
    return profile, fitted(np.hstack([text, *[leaning(key, y, profile)[:, None] for key in keys]]))


def measure(tables: Tables, start: datetime) -> list[Reach]:
    """Fit baselines on the interactions before `start` and score the others. The default size takes about 5 s.

    Args:
        tables: The tables of `generate`, with the oracle.
        start: The start of the benchmark, as `benchmark_start` returns it.

    Returns:
        One entry per task.

    Raises:
        ConfigError: The tables have no oracle.
    """
    from sklearn.metrics import roc_auc_score

    if tables.oracle is None:
        raise ConfigError("these tables have no oracle, so their best reachable AUC is unknown. Use generate(config).")
    surface = tables.interactions["surface"].to_numpy()
    positive = [s.positive for s in SURFACES]
    y = np.isin(tables.interactions["action"].to_numpy(), positive).astype(np.float64)
    late = pc.greater_equal(tables.interactions["timestamp"], pa.scalar(start, TIMESTAMP)).to_numpy()
    truth = true_probabilities(tables.oracle, tables.interactions["interaction_id"].to_numpy(), positive)
    item = np.unique(tables.interactions["entity_id"].to_numpy(), return_inverse=True)[1]
    profile, history = logistic_scores(tables, ~late)
    reaches = []
    for s in SURFACES:
        train, test = (surface == s.name) & ~late, (surface == s.name) & late
        shown = np.bincount(item[train], minlength=item.max() + 1)
        liked = np.bincount(item[train], weights=y[train], minlength=item.max() + 1)
        popularity = ((liked + 5 * y[train].mean()) / (shown + 5))[item]
        aucs = [float(roc_auc_score(y[test], score[test])) for score in (popularity, profile, history, truth)]
        reaches.append(Reach(s.task, int(test.sum()), float(y[test].mean()), *aucs))
    return reaches


def _read(tables: Tables) -> tuple[Array, list[Array]]:
    """Compute the features that a prompt of each interaction contains.

    Returns:
        text: float32, shape (interactions, features): the entity's attributes, one-hot, and its matches with the
            profile.
        keys: int arrays, shape (interactions,). The first identifies the member; the second the member and the group (a
            job's industry, a post's topic); the third the member and the format (jobs have none).
    """
    member = pc.index_in(tables.interactions["member_id"], tables.members["member_id"]).to_numpy()
    entity = pc.index_in(tables.interactions["entity_id"], tables.entities["entity_id"]).to_numpy()
    profiles, fields = tables.members["profile"].to_pylist(), tables.entities["fields"].to_pylist()
    codes, columns = {}, []
    for name in FIELDS[1:-1]:  # without title and text, which industry and topic imply
        if name not in ("location", "skills"):
            values, codes[name] = np.unique([row[name] or "" for row in fields], return_inverse=True)
            columns.append(np.eye(len(values), dtype=np.float32)[codes[name]][entity])
    topics = {x: {words.TOPICS[t] for t in words.INDUSTRY_TOPICS[i]} for i, x in enumerate(words.INDUSTRIES)}
    rank = {name: i for i, name in enumerate(words.SENIORITIES)}
    matches = [
        (
            p["industry"] == f["industry"],
            p["location"] == f["location"],
            abs(rank[p["seniority"]] - rank[f["seniority"]]) if f["seniority"] else 0,
            len(set(p["skills"].split(", ")) & set((f["skills"] or "").split(", "))),
            f["topic"] in topics[p["industry"]],
        )
        for p, f in zip((profiles[i] for i in member), (fields[i] for i in entity), strict=True)
    ]
    group = np.where(codes["topic"] > 0, 100 + codes["topic"], codes["industry"])[entity]  # 0 is the empty topic
    keys = [member, member * 1000 + group, member * 1000 + codes["format"][entity]]
    return np.hstack([*columns, np.array(matches, dtype=np.float32)]), keys


def leaning(key_N: Array, y_N: Array, expected_N: Array) -> Array:
    """Compute the logits by which earlier reactions with the same key exceed their expectation, shrunk towards 0.

    One Newton step of a Gaussian posterior with prior variance 1: sum(y - p) / (1 + sum(p (1 - p))), over strictly
    earlier rows.
    """
    order = np.argsort(key_N, kind="stable")
    opens = np.flatnonzero(np.r_[True, np.diff(key_N[order]) != 0])
    block = np.repeat(np.arange(len(opens)), np.diff(np.r_[opens, len(order)]))

    def earlier(x: Array) -> Array:
        before = np.cumsum(x[order]) - x[order]
        return before - before[opens][block]

    leaning_N = np.empty(len(key_N), dtype=np.float32)
    leaning_N[order] = earlier(y_N - expected_N) / (1 + earlier(expected_N * (1 - expected_N)))
    return leaning_N


def main() -> None:
    """Print the measured table of docs/synthetic.md for the default config."""
    config = SyntheticConfig()
    tables = generate(config)
    print(f"{tables.interactions.num_rows:,} interactions; benchmark from {benchmark_start(config):%Y-%m-%d}\n")
    print("| task | rows | positive | popularity | profile (share) | profile + history (share) | oracle |")
    print("|---|---|---|---|---|---|---|")
    for r in measure(tables, benchmark_start(config)):
        profile = f"{r.profile_auc:.3f} ({r.share(r.profile_auc):.2f})"
        history = f"{r.history_auc:.3f} ({r.share(r.history_auc):.2f})"
        print(
            f"| {r.task} | {r.rows:,} | {r.positive_rate:.3f} | {r.popularity_auc:.3f} | {profile} | {history} "
            f"| {r.oracle_auc:.3f} |"
        )


if __name__ == "__main__":
    main()

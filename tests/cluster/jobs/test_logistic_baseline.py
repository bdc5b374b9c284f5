"""The logistic regression of a benchmark is fitted on the training rows of the synthetic graph."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from brew_cluster.jobs.logistic_baseline import logistic_baseline
from brew_data.schema import Tables, micros
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate
from brew_data.split import Split, SplitConfig
from brew_platform.metrics import auc, smoothed_mean

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def tables() -> Tables:
    return generate(SyntheticConfig(members=150, jobs=80, posts=80, interactions_per_member=40))


def cut(tables: Tables) -> Split:
    return Split.of(micros(tables.interactions).to_numpy(), SplitConfig(last_days=30))


def test_it_scores_the_later_rows_better_than_popularity(tables: Tables) -> None:
    split = cut(tables)
    scores = logistic_baseline("synthetic", tables, split)
    assert scores is not None
    times = micros(tables.interactions).to_numpy()
    jobs = tables.interactions["surface"].to_numpy(zero_copy_only=False) == "jobs"
    later = times > split.train_until
    assert sorted(scores) == sorted(tables.interactions["interaction_id"].to_numpy()[later].tolist())
    labels = tables.interactions["action"].to_numpy(zero_copy_only=False) == "apply"
    entities = tables.interactions["entity_id"].to_numpy(zero_copy_only=False)
    ids = tables.interactions["interaction_id"].to_numpy()
    popularity = smoothed_mean(entities[jobs & ~later], labels[jobs & ~later].astype(int), entities[jobs & later])
    own = np.array([scores[id_] for id_ in ids[jobs & later].tolist()])
    truth = labels[jobs & later].astype(int)
    assert (auc(truth, own) or 0) > (auc(truth, popularity) or 0) + 0.05


def test_the_labels_of_later_rows_are_not_fitted_on(tables: Tables) -> None:
    split = cut(tables)
    times = micros(tables.interactions).to_numpy()
    last = int(times.argmax())
    actions = tables.interactions["action"].to_pylist()
    actions[last] = "apply" if actions[last] != "apply" else "skip"
    index = tables.interactions.column_names.index("action")
    changed = tables.interactions.set_column(index, tables.interactions.schema.field("action"), pa.array(actions))
    assert logistic_baseline("synthetic", tables, split) == logistic_baseline(
        "synthetic", replace(tables, interactions=changed), split
    )


def test_another_source_has_none(tables: Tables) -> None:
    assert logistic_baseline("movielens", tables, cut(tables)) is None

"""The regressions of a benchmark are fitted on the training rows of generated data."""

from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest

from brew_data.prompts.suite import load_suite
from brew_data.schema import Tables, micros
from brew_data.sources.economic_graph.config import EconomicGraphConfig
from brew_data.sources.economic_graph.source import EconomicGraph
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate
from brew_data.split import Split, SplitConfig
from brew_eval.baselines.by_name import FACTS, REFERENCE, score_by_name
from brew_eval.baselines.fact_regressions import fit_fact_regressions
from brew_eval.evaluation import evaluate
from brew_eval.measurement import EvaluationConfig
from brew_eval.scored_rows import ScoredRowsInfo
from brew_eval.selection import rows_after_cut
from brew_platform.metrics import auc, smoothed_mean

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


SUITE = load_suite("economic_graph")


@pytest.fixture(scope="module")
def tables() -> Tables:
    return generate(SyntheticConfig(members=150, jobs=80, posts=80, interactions_per_member=40))


def cut(tables: Tables) -> Split:
    return Split.of(micros(tables.interactions).to_numpy(), SplitConfig(last_days=30))


def test_it_scores_the_later_rows_better_than_popularity(tables: Tables) -> None:
    split = cut(tables)
    found = fit_fact_regressions("synthetic", {}, tables, SUITE, split)["logistic"]
    assert set(found) == {task.name for task in SUITE.tasks if task.follows_surface}
    scores = found["job_apply"]
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
    assert fit_fact_regressions("synthetic", {}, tables, SUITE, split) == fit_fact_regressions(
        "synthetic", {}, replace(tables, interactions=changed), SUITE, split
    )


def test_another_source_has_none(tables: Tables) -> None:
    assert fit_fact_regressions("movielens", {}, tables, SUITE, cut(tables)) == {}


def test_the_economic_graph_is_drawn_again_from_its_settings() -> None:
    config = EconomicGraphConfig(members=150)
    graph, suite = EconomicGraph(config=config).read(), load_suite("professional_network")
    suite = replace(suite, tasks=[suite.task("post_engage"), suite.task("article_read")])
    split = Split.of(micros(graph.interactions).to_numpy(), SplitConfig(last_days=30, gap_days=30))
    found = fit_fact_regressions("economic_graph", asdict(config), graph, suite, split)
    assert set(found) == {"profile", "matches"}
    rows = rows_after_cut(graph, suite, split, ScoredRowsInfo(model="m", suite=suite.name, data_digest="d"))
    for by_task in found.values():
        assert {task: sorted(scores) for task, scores in by_task.items()} == {
            task: rows.of_tasks([task]).column("row_id").tolist() for task in rows.tasks
        }
    source = {"source": "economic_graph", "source_config": asdict(config)}
    names = ["entity_mean", "fact_profile", "fact_matches"]
    scored = list(score_by_name([REFERENCE, FACTS], rows, graph, suite, split, **source))
    assert [part.info.name for part in scored] == names
    for task in evaluate(scored[2], scored[:1], EvaluationConfig(replicates=2)).tasks.values():
        assert task.baselines[REFERENCE].differences["auc"].value > 0
    assert fit_fact_regressions("economic_graph", {}, graph, suite, split) == {}  # their settings are not known

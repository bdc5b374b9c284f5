"""The ablation: what text, history and popularity are worth."""

from dataclasses import replace

import numpy as np

from brew_data.prompts.suite import load_suite
from brew_data.sources.economic_graph.ablation import measure, table
from brew_data.sources.economic_graph.config import EconomicGraphConfig


def test_matches_do_not_suffice_and_the_history_helps() -> None:
    suite = load_suite("professional_network")
    names = ["post_engage", "notification_open", "course_save", "job_save", "article_read"]
    suite = replace(suite, tasks=[task for task in suite.tasks if task.name in names])
    results = measure(EconomicGraphConfig(members=400), suite)
    assert {result.task for result in results} == set(names)
    popularity, profile, matches, text, history, best = np.array([result[4:] for result in results]).mean(axis=0)
    assert popularity < 0.6
    assert profile < 0.62
    assert matches < text < history - 0.03 < best - 0.05
    assert best > 0.75
    lines = table(results).splitlines()
    assert len(lines) == len(results) + 2
    assert len({line.count("|") for line in lines}) == 1

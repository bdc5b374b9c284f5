"""The demo's recipes: the gates of a release are checked against the suite and the source before the run starts."""

import pytest

from brew_cluster.jobs.demo_config import load_recipe
from brew_platform.errors import ConfigError
from brew_platform.registry.gates import Gate


def test_the_recipes_that_ship_name_a_gate_for_every_task() -> None:
    assert [gate.figure for gate in load_recipe("synthetic", []).release.gates] == [
        "job_apply.gap_closed", "post_like.gap_closed", "post_open.gap_closed",
    ]  # fmt: skip
    assert load_recipe("movielens", []).release.gates == [Gate(figure="movie_rating.gain", at_least=0.0)]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "release.min_gain=0.1",
            r"release\.min_gain .* was renamed: write release\.gates: \[\{figure: TASK\.gain, at_least",
        ),
        (
            "release.min_gap_closed=0.1",
            r"write release\.gates: \[\{figure: TASK\.gap_closed, at_least",
        ),
        (
            "release.gates=[{figure: movie_ratin.auc, at_least: 1}]",
            r"not have the task 'movie_ratin'\. Did you mean movie_",
        ),
        ("release.gates=[{figure: auc, at_least: 1}]", "does not have the task ''"),
        ("release.gates=[{figure: movie_rating.aux, at_least: 1}]", r"not have the figure 'aux'\. Did you mean auc\?"),
        ("release.gates=[{figure: movie_rating.auc}]", "no threshold, so that every value would pass"),
        (
            "release.gates=[{figure: movie_rating.gap_closed, at_least: 1}]",
            r"does not have true probabilities, so that the best .* Set movie_rating\.gain or ",
        ),
    ],
)
def test_a_gate_that_the_benchmark_cannot_measure_is_refused(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe("movielens", [override])

"""The suite of the professional network: its tasks, its surfaces, and questions that give no help."""

import pytest

from brew_data.prompts.suite import TaskSuite, load_suite
from brew_data.sources.economic_graph.surfaces import SURFACES


@pytest.fixture(scope="module")
def suite() -> TaskSuite:
    return load_suite("professional_network")


def test_there_are_thirty_tasks_on_eight_surfaces(suite: TaskSuite) -> None:
    trained = [task for task in suite.tasks if task.in_training]
    assert len(trained) >= 30
    assert len({task.surface for task in trained}) >= 8
    sizes = {len(suite.outcomes(task)) for task in trained}
    assert {2, 3, 4, 5} <= sizes


def test_surfaces_and_actions_are_those_of_the_graph(suite: TaskSuite) -> None:
    assert [(surface.name, surface.entity_type) for surface in suite.surfaces] == [
        (surface.name, surface.entity_type) for surface in SURFACES
    ]
    for ours, theirs in zip(suite.surfaces, SURFACES, strict=True):
        assert [action.name for action in ours.actions] == [action.name for action in theirs.actions]


def test_surfaces_of_new_tasks_are_never_trained(suite: TaskSuite) -> None:
    trained = {task.surface for task in suite.tasks if task.in_training}
    new = {task.surface for task in suite.tasks if not task.in_training}
    assert new == {"ads", "articles", "events"}
    assert trained.isdisjoint(new)
    for task in suite.tasks:
        if task.in_training:
            assert new.isdisjoint(task.history.surfaces)


def test_no_question_shows_a_fact_of_the_profile(suite: TaskSuite) -> None:
    for part in (*suite.surfaces, *suite.tasks):
        assert not any("{{" in question for question in part.question or [])

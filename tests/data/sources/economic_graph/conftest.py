"""A small graph, generated once."""

import pytest

from brew_data.schema import Tables
from brew_data.sources.economic_graph.config import EconomicGraphConfig
from brew_data.sources.economic_graph.interactions import Interactions, generate_months
from brew_data.sources.economic_graph.tables import generate
from brew_data.sources.economic_graph.world import World, draw_world

SMALL = EconomicGraphConfig(members=200, months=4, contacts_share=0.3, opted_out_share=0.1)


@pytest.fixture(scope="session")
def config() -> EconomicGraphConfig:
    return SMALL


@pytest.fixture(scope="session")
def world() -> World:
    return draw_world(SMALL)


@pytest.fixture(scope="session")
def rows(world: World) -> Interactions:
    return Interactions.concatenate(list(generate_months(world)))


@pytest.fixture(scope="session")
def tables() -> Tables:
    return generate(SMALL)

"""Everything of the graph that does not depend on what members do."""

from dataclasses import dataclass

from brew_data.sources.economic_graph.config import EconomicGraphConfig
from brew_data.sources.economic_graph.entities import Entities, draw_entities, draw_trends
from brew_data.sources.economic_graph.group_sampler import Array
from brew_data.sources.economic_graph.network import Network, draw_network, draw_suggestions
from brew_data.sources.economic_graph.population import Companies, Members, draw_companies, draw_members

__all__ = ["World", "draw_world"]


@dataclass(frozen=True, kw_only=True)
class World:
    """Companies, members, their network, and the entities. A million members need about 2 GB."""

    config: EconomicGraphConfig
    companies: Companies
    members: Members
    network: Network
    entities: Entities
    trends_TV: Array  # (months, topics), see `draw_trends`


def draw_world(config: EconomicGraphConfig) -> World:
    """Draw the graph without interactions and texts."""
    companies = draw_companies(config)
    members = draw_members(config, companies)
    network = draw_network(config, members)
    return World(
        config=config,
        companies=companies,
        members=members,
        network=network,
        entities=draw_entities(config, companies, members, draw_suggestions(config, members, network)),
        trends_TV=draw_trends(config),
    )

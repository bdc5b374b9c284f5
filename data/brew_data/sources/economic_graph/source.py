"""The economic graph as a source."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from brew_data.schema import Tables
from brew_data.sources.economic_graph.config import EconomicGraphConfig
from brew_data.sources.economic_graph.tables import generate, table_batches
from brew_data.sources.economic_graph.world import draw_world

__all__ = ["EconomicGraph"]


@dataclass(frozen=True, kw_only=True)
class EconomicGraph:
    """A generated professional network, with the true probability of every action (docs/economic_graph.md)."""

    name: ClassVar[str] = "economic_graph"
    config_class: ClassVar[type] = EconomicGraphConfig
    suite: ClassVar[str] = "professional_network"
    recipe: ClassVar[Path | None] = None
    path_contents: ClassVar[str | None] = None
    has_true_probabilities: ClassVar[bool] = True

    config: EconomicGraphConfig
    path: Path | None = None

    def read(self) -> Tables:
        """Generate the tables; takes about ten seconds for the default size."""
        return generate(self.config)

    def batches(self) -> Iterator[tuple[str, pa.Table]]:
        """Generate the rows of `read` in batches of bounded size, each with the name of its table."""
        return table_batches(draw_world(self.config))

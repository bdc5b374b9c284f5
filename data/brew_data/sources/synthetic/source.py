"""The synthetic economic graph as a source."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from brew_data.schema import Tables
from brew_data.sources.synthetic.config import SyntheticConfig
from brew_data.sources.synthetic.generator import generate

__all__ = ["Synthetic"]


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """A generated economic graph, with the true probability of every action (docs/synthetic.md)."""

    name: ClassVar[str] = "synthetic"
    config_class: ClassVar[type] = SyntheticConfig
    suite: ClassVar[str] = "economic_graph"
    recipe: ClassVar[Path | None] = None
    path_contents: ClassVar[str | None] = None
    has_true_probabilities: ClassVar[bool] = True

    config: SyntheticConfig
    path: Path | None = None

    def read(self) -> Tables:
        """Generate the tables; takes about one second for the default size."""
        return generate(self.config)

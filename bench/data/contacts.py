"""Measures recall and precision of the removal of contacts, on the texts of an economic graph with planted contacts.

The generator writes contacts in sentences of its own, which the detector does not share, and keeps where they are.
"""

import argparse
import json
from itertools import takewhile
from pathlib import Path

import pyarrow as pa

from brew_data.privacy.measure import measure_removal
from brew_data.sources.economic_graph.config import EconomicGraphConfig
from brew_data.sources.economic_graph.tables import planted_contacts, table_batches
from brew_data.sources.economic_graph.world import draw_world
from brew_platform.files import replace_atomically

TEXTS = ("members", "entities")  # tables whose texts are searched


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.data.contacts", description=__doc__)
    parser.add_argument("--members", type=int, default=20_000, help="Of the graph. Default: %(default)s.")
    parser.add_argument("--seed", type=int, default=1, help="Of the graph. Default: %(default)s.")
    parser.add_argument("--report", type=Path, required=True, help="JSON file for the figures.")
    options = parser.parse_args()
    report = measure_removal(*draw_texts(options.members, options.seed))
    replace_atomically(options.report, json.dumps(report, indent=1))


def draw_texts(members: int, seed: int) -> tuple[dict[str, pa.Table], pa.Table]:
    """Return the members and entities of a graph, and the places of the contacts that were planted in their texts."""
    world = draw_world(EconomicGraphConfig(members=members, seed=seed))
    parts: dict[str, list[pa.Table]] = {name: [] for name in TEXTS}
    for name, rows in takewhile(lambda batch: batch[0] in TEXTS, table_batches(world)):
        parts[name].append(rows)
    return {name: pa.concat_tables(rows) for name, rows in parts.items()}, planted_contacts(world)


if __name__ == "__main__":
    main()

"""`python -m bench.small_base.regressions RECIPE --report FILE`: what regressions on facts predict on a graph.

`brew_data.sources.economic_graph.ablation` on the graph of a data recipe, by task.
"""

import argparse
import json
from pathlib import Path

from brew_cluster.cli.runner import supervise
from brew_cluster.jobs.dataset_config import load_dataset_config
from brew_data.prompts.suite import load_suite
from brew_data.sources.economic_graph.ablation import measure
from brew_platform.console.plain_console import PlainConsole
from brew_platform.files import replace_atomically


def main() -> None:
    """Measure, and write the AUCs of each task."""
    parser = argparse.ArgumentParser(prog="python -m bench.small_base.regressions", description=__doc__)
    parser.add_argument("recipe", help="Recipe of data with the source economic_graph.")
    parser.add_argument("--report", type=Path, required=True)
    options, overrides = parser.parse_known_args()
    with supervise(PlainConsole()):
        config = load_dataset_config(options.recipe, overrides)
        results = measure(config.source_config, load_suite(config.suite))
        report = {result.task: result._asdict() for result in results}
        options.report.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(options.report, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The time to load, check and render the definition of a cluster with 512 GPUs."""

import statistics
import time

__all__ = ["render_seconds"]

_DEFINITION = "h100_512"


def render_seconds(rounds: int = 5) -> float:
    """Return the median seconds from the YAML file to checked Kubernetes objects, without the import of the code."""
    from brew_cluster.definition.load import load_definition
    from brew_cluster.definition.programs import load_programs
    from brew_cluster.definition.render import check_definition, render

    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        config = load_definition([_DEFINITION])
        programs = load_programs(config)
        problems = check_definition(config, programs)
        if problems:
            raise ValueError(f"{_DEFINITION} has problems: {'; '.join(problems)}")
        render(config, programs, "kuberay")
        found.append(time.perf_counter() - start)
    return round(statistics.median(found), 3)

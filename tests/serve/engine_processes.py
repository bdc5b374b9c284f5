"""Which of vLLM's engine processes run."""

import psutil


def engine_cores() -> set[psutil.Process]:
    """Engine processes below this one that still run; one that was just killed has a moment to be gone."""
    children = psutil.Process().children(recursive=True)
    _, alive = psutil.wait_procs([child for child in children if "EngineCor" in child.name()], timeout=2)
    return set(alive)

"""The marks of a test module that starts vLLM's engine, and the engine processes that run."""

import psutil
import pytest

__all__ = ["ENGINES", "engine_cores"]

# One loop for the module: vLLM's engine takes calls from one event loop.
# vLLM leaves its ZeroMQ context to the garbage collector, which warns; `collected` makes that happen in the module.
ENGINES = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:Unclosed context <zmq:ResourceWarning"),
    pytest.mark.usefixtures("collected"),
]


def engine_cores() -> set[psutil.Process]:
    """Return the engine processes that run below this one, after a short wait for killed ones to end."""
    children = psutil.Process().children(recursive=True)
    _, alive = psutil.wait_procs([child for child in children if "EngineCor" in child.name()], timeout=2)
    return set(alive)

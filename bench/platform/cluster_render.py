"""Time of checking and rendering the definition for 512 H100s."""

import statistics
import subprocess
import sys
import tempfile
import time

from brew_cluster.definition.load import load_definition
from brew_cluster.definition.programs import load_programs
from brew_cluster.definition.render import TARGETS, check_definition, render

__all__ = ["measure_render"]

DEFINITION = "h100_512"


def measure_render(repeats: int = 5) -> dict[str, float]:
    """Measure the check and all renderings.

    Returns:
        `render_seconds`: median of loading, checking and rendering for all targets in this process;
        `render_command_seconds`: median of `brew360 cluster render` in a process of its own, with its imports.
    """
    inside, commands = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        config = load_definition([DEFINITION])
        programs = load_programs(config)
        if problems := check_definition(config, programs):
            raise RuntimeError(f"{DEFINITION} breaks its rules: {problems}")
        for target in TARGETS:
            render(config, programs, target)
        inside.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", "from brew_cluster.cli.main import main; main()", "cluster", "render",
                   DEFINITION, "--to", "kuberay", "--out", folder]  # fmt: skip
        for _ in range(repeats):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            commands.append(time.perf_counter() - start)
    return {
        "render_seconds": round(statistics.median(inside), 3),
        "render_command_seconds": round(statistics.median(commands), 3),
    }

"""`python -m bench.small_base.task_subset OUT`: writes a suite with some of the tasks of professional_network.

Numbers such as followers are percentiles ("top 10%") in that suite; `--numbers raw` writes them as they are.

Tasks with a question of their own train on one answer for each prompt, which costs up to 1,024 tokens. Tasks that
follow their surface train on all answers of a history at once. The long stages of the base model have only these.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from brew_cluster.cli.runner import supervise
from brew_data.prompts.suite import SUITES, load_suite
from brew_platform.console.plain_console import PlainConsole
from brew_platform.errors import UserError
from brew_platform.files import replace_folder

__all__ = ["NUMBERS", "SUITE", "write_subset"]

SUITE = "professional_network"
NUMBERS = ("percentile", "raw")


def write_subset(out: Path, tasks: Sequence[str] | None = None, *, numbers: str = "percentile") -> Path:
    """Write the suite.

    Args:
        out: Folder of the suite; replaced.
        tasks: Names of its tasks; None: all that follow their surface, and those that are not trained.
        numbers: percentile or raw.

    Returns:
        `out`.

    Raises:
        UserError: A task is unknown.
    """
    suite = load_suite(SUITE)
    if tasks is None:
        tasks = [task.name for task in suite.tasks if task.follows_surface or not task.in_training]
    if unknown := sorted(set(tasks) - {task.name for task in suite.tasks}):
        raise UserError(f"the suite {SUITE} has no task {unknown[0]}; its tasks are the files of its folder tasks/.")
    temporary = out.with_name(f".{out.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "tasks").mkdir(parents=True)
    text = (SUITES / SUITE / "suite.yaml").read_text()
    (temporary / "suite.yaml").write_text(text.replace(" | percentile", "") if numbers == "raw" else text)
    for name in tasks:
        shutil.copyfile(SUITES / SUITE / "tasks" / f"{name}.yaml", temporary / "tasks" / f"{name}.yaml")
    replace_folder(temporary, out)
    return out


def main() -> None:
    """Write a suite."""
    parser = argparse.ArgumentParser(prog="python -m bench.small_base.task_subset", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", action="append", help="A task; may be repeated. Default: without own questions.")
    parser.add_argument("--numbers", choices=NUMBERS, default=NUMBERS[0], help="Default: %(default)s.")
    options = parser.parse_args()
    with supervise(PlainConsole()):
        write_subset(options.out, options.task, numbers=options.numbers)


if __name__ == "__main__":
    main()

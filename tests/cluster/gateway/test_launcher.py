"""The launcher of brew360 commands in Ray jobs: the recipe's file, exit codes, and SIGTERM to all processes."""

import os
import signal
import subprocess
import sys

import pytest

from brew_cluster.gateway.launcher import RECIPE_VARIABLE

COMMAND = """
import signal, sys, time
def interrupt(number, frame):
    print("interrupted", flush=True)
    sys.exit(130)
signal.signal(signal.SIGINT, interrupt)
signal.signal(signal.SIGTERM, lambda number, frame: print("terminated", flush=True))
print(open(sys.argv[2]).read() if sys.argv[1] == "show" else "up", flush=True)
if sys.argv[1] == "exit":
    sys.exit(int(sys.argv[2]))
time.sleep(30 if sys.argv[1] == "wait" else 0)
"""


def launch(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    code = (
        f"import sys; from brew_cluster.gateway.launcher import main\n"
        f"sys.exit(main({list(arguments)!r}, program=[sys.executable, '-c', {COMMAND!r}]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, **environment}, start_new_session=True,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}),  # as Ray does
    )  # fmt: skip


@pytest.mark.parametrize("code", [0, 2, 7])
def test_the_exit_code_is_that_of_the_command(code: int) -> None:
    process = launch("exit", str(code))
    process.communicate(timeout=30)
    assert process.returncode == code


def test_the_recipe_is_a_file_of_its_name_for_the_command() -> None:
    process = launch("show", "mine.yaml", **{RECIPE_VARIABLE: "run: ü\n"})
    assert process.communicate(timeout=30)[0] == "run: ü\n\n"


def test_of_a_sigterm_to_all_processes_the_command_gets_an_interrupt() -> None:
    process = launch("wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    os.killpg(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "interrupted\n"
    assert process.returncode == 130

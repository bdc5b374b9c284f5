"""Starts and stops Ray on one machine, or connects to the cluster that RAY_ADDRESS names.

A local Ray belongs to one command. It can outlive the command (`--keep`). Commands refuse to use a running Ray.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import ray
from ray._private import services

from brew_platform.errors import BrewError, UserError

__all__ = ["any_ray", "local_ray", "logs_folder", "refuse_running_ray", "stop_ray"]

OBJECT_STORE_BYTES = (
    512 * 2**20
)  # tables, documents and requests of one machine's runs fit; Ray's default is 30% of memory


def refuse_running_ray() -> None:
    """Check that no Ray runs on this machine.

    Raises:
        UserError: A Ray is running, or RAY_ADDRESS is set.
    """
    address = os.environ.get("RAY_ADDRESS") or next(iter(services.find_gcs_addresses()), None)
    if address:
        raise UserError(
            f"Ray is already running at {address}, and this command starts its own Ray, which must not mix with it. "
            f"Stop that one with `brew360 serve down` (or `ray stop`), unset RAY_ADDRESS if it is set, and try again."
        )


@contextmanager
def local_ray(*, detached: bool, logs: Path) -> Iterator[None]:
    """Run Ray on this machine during the block.

    Args:
        detached: Ray keeps running after the block if the block succeeds; `stop_ray` ends it. If the block fails, Ray
            is stopped in any case.
        logs: The folder for a copy of Ray's logs, made when the block ends.

    Raises:
        UserError: A Ray is already running.
        BrewError: Ray did not start.
    """
    refuse_running_ray()
    # Twice the cores: Ray's CPUs are only reservations, and a shuffle that reserves CPUs must not block an engine.
    cores = 2 * max(2, os.cpu_count() or 1)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's C++ code prints warnings to the terminal directly
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    quiet = {"log_to_driver": False, "logging_level": "warning"}
    succeeded = False
    try:
        with _without_stderr():
            if detached:
                _ray_command("start", "--head", "--port=0", f"--num-cpus={cores}", "--include-dashboard=false",
                             f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats")  # fmt: skip
                ray.init(address="auto", **quiet)
            else:
                ray.init(
                    address="local",
                    num_cpus=cores,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    **quiet,
                )
        _settle_data()
        yield
        succeeded = True
    finally:
        _keep_logs(logs)
        with suppress(Exception):  # the caller kills remaining processes
            ray.shutdown()
        if detached and not succeeded:
            stop_ray()


@contextmanager
def any_ray(*, detached: bool, logs: Path) -> Iterator[bool]:
    """Connect to the cluster that RAY_ADDRESS names, or run `local_ray`. Yield True for a local Ray."""
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, log_to_driver=False, logging_level="warning")
        _settle_data()
        try:
            yield False
        finally:
            ray.shutdown()
        return
    with local_ray(detached=detached, logs=logs):
        yield True


def stop_ray() -> None:
    """Stop every Ray process of this user on this machine.

    Raises:
        BrewError: Some processes did not stop.
    """
    raylets = [process for process in psutil.process_iter(["name"]) if process.info["name"] == "raylet"]
    below = [child for raylet in raylets for child in raylet.children(recursive=True)]
    _ray_command("stop", "--force")
    for process in below:  # the agents of a raylet take seconds to notice that it has ended
        with suppress(psutil.NoSuchProcess):
            process.kill()


def logs_folder() -> Path:
    """Return the log folder of the connected Ray on this machine."""
    return Path(ray._private.worker._global_node.get_logs_dir_path())


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Silence file descriptor 2, to which Ray's C++ code prints its log level."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _settle_data() -> None:
    """Make Ray Data keep the order of rows, and disable its progress bars."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True


def _ray_command(*arguments: str) -> None:
    command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise BrewError(f"`ray {' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()[-400:]}")


def _keep_logs(target: Path) -> None:
    """Copy the text logs of the session, so that a failed run can be analyzed after Ray has ended."""
    with suppress(Exception):
        source = logs_folder()
        for path in source.rglob("*"):
            if path.is_file() and path.suffix in {".log", ".out", ".err"} and 0 < path.stat().st_size < 20_000_000:
                copy = target / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)

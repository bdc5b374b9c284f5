"""One machine's Ray: started for a command, or left running for `--keep`, and always stopped without orphans.

Holds start, stop, the refusal to share a Ray that someone else started, and the choice of a cluster instead.
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
    """Checks that no Ray runs on this machine yet.

    Raises:
        UserError: one does, or RAY_ADDRESS names one.
    """
    address = os.environ.get("RAY_ADDRESS") or next(iter(services.find_gcs_addresses()), None)
    if address:
        raise UserError(
            f"Ray is already running at {address}, and this command starts its own Ray, which must not mix with it. "
            f"Stop that one with `brew360 serve down` (or `ray stop`), unset RAY_ADDRESS if it is set, and try again."
        )


@contextmanager
def local_ray(*, detached: bool, logs: Path) -> Iterator[None]:
    """A Ray of this machine's cores for the time of the block.

    Args:
        detached: Ray outlives this process if the block succeeds (`stop_ray` ends it). If the block fails it is stopped
            all the same.
        logs: folder that receives Ray's own logs when the block ends.

    Raises:
        UserError: a Ray is already running.
        BrewError: Ray did not start.
    """
    refuse_running_ray()
    # Twice the cores: they are shares, not cores, and a shuffle that holds its share must not keep an engine waiting.
    cores = 2 * max(2, os.cpu_count() or 1)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings go to the terminal past every Python log
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
        with suppress(Exception):  # whatever state Ray is in, what remains is killed by the caller
            ray.shutdown()
        if detached and not succeeded:
            stop_ray()


@contextmanager
def any_ray(*, detached: bool, logs: Path) -> Iterator[bool]:
    """The Ray that RAY_ADDRESS names, or else `local_ray`; yields whether it is this machine's own."""
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
    """Stops every Ray process of this user on this machine.

    Raises:
        BrewError: some did not stop.
    """
    raylets = [process for process in psutil.process_iter(["name"]) if process.info["name"] == "raylet"]
    below = [child for raylet in raylets for child in raylet.children(recursive=True)]
    _ray_command("stop", "--force")
    for process in below:  # its agents notice only after seconds that the raylet is gone
        with suppress(psutil.NoSuchProcess):
            process.kill()


def logs_folder() -> Path:
    """Where the Ray that this process is connected to writes its logs, on this machine."""
    return Path(ray._private.worker._global_node.get_logs_dir_path())


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Silences file descriptor 2, where Ray's C++ code prints its log level."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _settle_data() -> None:
    """Rows keep their order, and what is shown of the progress is ours."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True


def _ray_command(*arguments: str) -> None:
    command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise BrewError(f"`ray {' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()[-400:]}")


def _keep_logs(target: Path) -> None:
    """Copies the session's text logs, so that a failed run can be understood after Ray is gone."""
    with suppress(Exception):
        source = logs_folder()
        for path in source.rglob("*"):
            if path.is_file() and path.suffix in {".log", ".out", ".err"} and 0 < path.stat().st_size < 20_000_000:
                copy = target / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)

"""Starts and stops Ray on one machine, or connects to the cluster that RAY_ADDRESS names.

A local Ray belongs to one command. It can outlive the command (`--keep`). It listens on a loopback address only, and
its clients need the token of its session. Of a cluster that RAY_ADDRESS names, nothing is stopped.
"""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
from ray._private.log import PlainRayHandler

from brew_cluster.ray.session import RaySession, kept_sessions
from brew_platform.errors import BrewError, UserError
from brew_platform.ports import free_port

__all__ = ["LOOPBACK", "any_ray", "local_ray", "logs_folder", "ray_command", "refuse_running_ray", "stop_ray"]

OBJECT_STORE_BYTES = (
    512 * 2**20
)  # tables, documents and requests of one machine's runs fit; Ray's default is 30% of memory

LOOPBACK = "127.0.0.1"


def refuse_running_ray() -> None:
    """Check that RAY_ADDRESS is not set, and that no earlier command left a Ray running. Others' are ignored.

    Raises:
        UserError: RAY_ADDRESS is set, or a Ray of an earlier command runs.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        raise UserError(
            f"RAY_ADDRESS names the Ray at {address}, but this command starts a Ray of its own. Unset RAY_ADDRESS, and "
            f"try again."
        )
    if sessions := kept_sessions():
        raise UserError(
            f"Ray is already running in {sessions[0].folder}: `brew360 serve up`, `demo --keep` or `cluster up` left "
            f"it there. Stop it with `brew360 serve down`, which ends all that runs on it, and try again."
        )


@contextmanager
def local_ray(*, detached: bool, logs: Path) -> Iterator[None]:
    """Run Ray on this machine during the block.

    Args:
        detached: Ray keeps running after the block if the block succeeds; `stop_ray` ends it. If the block fails, Ray
            is stopped in any case.
        logs: The folder for a copy of Ray's logs, made when the block ends.

    Raises:
        UserError: RAY_ADDRESS is set, or a Ray of an earlier command runs.
        BrewError: Ray did not start.
    """
    refuse_running_ray()
    # Twice the cores: Ray's CPUs are only reservations, and a shuffle that reserves CPUs must not block an engine.
    cores = 2 * max(2, os.cpu_count() or 1)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's C++ code prints warnings to the terminal directly
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    session = RaySession.create()
    succeeded = False
    try:
        with session.environment(kept=detached):
            try:
                with _without_stderr():
                    _start_kept(session, cores) if detached else _start(session, cores)
                _settle_libraries()
                yield
                succeeded = True
            finally:
                _keep_logs(logs)
                with suppress(Exception):  # the caller kills remaining processes
                    _disconnect()
    finally:
        if detached and not succeeded:
            session.stop()
        if not (detached and succeeded):
            session.remove()


@contextmanager
def any_ray(*, detached: bool, logs: Path) -> Iterator[bool]:
    """Connect to the cluster that RAY_ADDRESS names, or run `local_ray`. Yield True for a local Ray."""
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, log_to_driver=False, logging_level="warning")
        _settle_libraries()
        try:
            yield False
        finally:
            _disconnect()
        return
    with local_ray(detached=detached, logs=logs):
        yield True


def _disconnect() -> None:
    """Disconnect from Ray, which stops a Ray that this process started.

    Serve keeps its client beyond that, and takes it for one of the next Ray, whose first job has the same id.
    """
    if serve_context := sys.modules.get("ray.serve.context"):
        serve_context._set_global_client(None)
    ray.shutdown()


def stop_ray() -> list[Path]:
    """Stop the Rays that earlier commands of this user left running on this machine, and no others.

    Returns:
        Their folders, which contain their logs.

    Raises:
        BrewError: Some processes did not stop.
    """
    sessions = kept_sessions()
    for session in sessions:
        session.stop()
    return [session.folder for session in sessions]


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


def _start(session: RaySession, cores: int) -> None:
    ray.init(
        address="local",
        num_cpus=cores,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level="warning",
        _node_ip_address=LOOPBACK,
        _temp_dir=str(session.folder),
    )


def _start_kept(session: RaySession, cores: int) -> None:
    """Start Ray so that it outlives this process, and connect to it."""
    ray_command("start", "--head", "--port=0", f"--num-cpus={cores}", "--include-dashboard=false",
                 f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats", f"--temp-dir={session.folder}",
                 # Ray's defaults are fixed ports, which another Ray on this machine may have
                 f"--ray-client-server-port={free_port()}", "--dashboard-agent-listen-port=0",
                 f"--node-ip-address={LOOPBACK}")  # fmt: skip
    address = (session.folder / "ray_current_cluster").read_text().strip()
    ray.init(address=address, log_to_driver=False, logging_level="warning")


def _settle_libraries() -> None:
    """Make Ray Data keep the order of rows, disable its progress bars, and let it and Ray Serve print errors only."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # of this process; commands print what happens
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, PlainRayHandler):  # it prints; the import of ray.data added it
            handler.setLevel(logging.ERROR)


def ray_command(*arguments: str, module: str = "ray.scripts.scripts") -> None:
    """Run a command of Ray, such as `start`.

    Args:
        arguments: The command and its options.
        module: The module that runs it.

    Raises:
        BrewError: It failed; with the end of its output.
    """
    command = [sys.executable, "-m", module, *arguments]
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

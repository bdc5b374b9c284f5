"""A local Ray with two CPUs for a test module, and the marks of such a module."""

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

__all__ = ["RAY", "running_ray"]

# Ray's own: pydantic fields of an old style at import, and files that it leaves to the garbage collector.
RAY = [
    pytest.mark.real,
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning:ray"),
]


@contextmanager
def running_ray() -> Iterator[None]:
    """Start Ray, and stop it with Serve and all engines at the end."""
    import ray
    from ray import serve

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=200 * 2**20,
            log_to_driver=False,
            logging_level="warning",
        )
        try:
            yield
        finally:
            started = psutil.Process().children(recursive=True)
            serve.shutdown()
            ray.shutdown()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not [process for process in alive if "EngineCor" in process.name()]

"""brew360 refuses to start while another Ray is running."""

import pytest

from brew_cluster.ray.local_ray import refuse_running_ray
from brew_platform.errors import UserError


def test_a_running_ray_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match=r"Ray is already running at 10\.0\.0\.1:6379.*brew360 serve down"):
        refuse_running_ray()

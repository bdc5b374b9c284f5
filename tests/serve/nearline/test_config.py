"""Nearline settings: the choice of backend and scaling policy, and the validation of values."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from brew_platform.errors import ConfigError
from brew_serve.context.base import MemberContext
from brew_serve.context.redis import RedisContext
from brew_serve.nearline.config import NearlineConfig
from brew_serve.nearline.dispatcher import Message
from brew_serve.nearline.outbox import Job
from brew_serve.nearline.redis_store import RedisNearlineStore
from brew_serve.nearline.store import SqliteNearlineStore
from brew_serve.stores.sqlite_file import Unavailable

JOB = Job(job_id="event:a", kind="event", member_id="ada", payload={"text": "\N{SNOWMAN}"})


def test_the_backend_is_redis_if_its_url_is_set_and_files_otherwise(tmp_path: Path, tables: Any) -> None:
    MemberContext.build(tables, tmp_path / "context.sqlite")
    files = NearlineConfig(folder=str(tmp_path / "n"), context_path=str(tmp_path / "context.sqlite"))
    redis = NearlineConfig(folder=str(tmp_path / "n"), redis_url="redis://127.0.0.1:1/0")
    for config, kinds in [(files, (MemberContext, SqliteNearlineStore)), (redis, (RedisContext, RedisNearlineStore))]:
        parts = (config.open_context(), config.open_store())
        assert tuple(map(type, parts)) == kinds
        for part in parts:
            part.close()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "neither of context_path and redis_url given; give exactly one of them."),
        ({"context_path": "c", "redis_url": "redis://h"}, "both of context_path and redis_url given"),
        ({"redis_url": "amqp://h"}, "redis_url must begin with redis://, rediss:// or unix://."),
        (
            {"context_path": "c", "min_consumers": 3, "max_consumers": 2},
            "max_consumers is 2, which is less than min_consumers (3)",
        ),
    ],
)
def test_invalid_settings_are_refused(settings: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        NearlineConfig(folder="n", **settings)
    assert str(error.value).startswith(sentence)


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
class TestWithRay:
    """Tests that need Ray's packages, but no running Ray."""

    def test_a_message_is_a_complete_file_in_the_inbox(self, tmp_path: Path) -> None:
        from brew_serve.nearline.celery_queue import CeleryQueue, message_of

        config = NearlineConfig(folder=str(tmp_path), context_path="c")
        queue = CeleryQueue(config)
        queue.send(Message(member_id="ada", jobs=[JOB]))
        assert [path.name.partition(".")[2] for path in (config.queue_folder / "inbox").iterdir()] == [
            "brew360-nearline.msg"
        ]
        assert [path for path in (config.queue_folder / "staging").rglob("*") if path.is_file()] == []
        sent = {**vars(JOB), "payload": dict(JOB.payload)}
        assert message_of("ada", [sent]) == Message(member_id="ada", jobs=[JOB])

    def test_a_broker_that_is_down_raises_unavailable(self, tmp_path: Path) -> None:
        from brew_serve.nearline.celery_queue import CeleryQueue

        queue = CeleryQueue(NearlineConfig(folder=str(tmp_path), redis_url="redis://127.0.0.1:1/0"))
        with pytest.raises(
            Unavailable, match="the nearline queue did not accept a message .*check that the broker runs"
        ):
            queue.send(Message(member_id="ada", jobs=[JOB]))

    async def test_the_policy_of_serve_reads_the_length_of_the_redis_queue(
        self, tmp_path: Path, redis_url: str
    ) -> None:
        pytest.importorskip("tornado", reason="Serve's policy for queues imports tornado, which is not installed")
        from ray._common.utils import import_attr

        from brew_serve.nearline.celery_queue import CeleryQueue
        from brew_serve.nearline.consumer import scaling

        config = NearlineConfig(
            folder=str(tmp_path), redis_url=redis_url, queue_name=f"q-{tmp_path.name}", max_consumers=3
        )
        queue = CeleryQueue(config)
        for _ in range(5):
            queue.send(Message(member_id="ada", jobs=[JOB]))
        policy_config = scaling(config)["autoscaling_config"].policy
        policy = import_attr(policy_config.policy_function)(**policy_config.policy_kwargs)
        context = SimpleNamespace(
            current_num_replicas=1,
            total_num_requests=0,
            config=SimpleNamespace(get_target_ongoing_requests=lambda: 2),
        )
        policy(context)
        await asyncio.sleep(1.0)  # it asks in the background
        assert policy(context) == (2.5, {"queue_length": 5})

    def test_without_redis_the_policy_reads_the_outbox(self, tmp_path: Path) -> None:
        from brew_serve.nearline.autoscaling import OutboxDepthPolicy
        from brew_serve.nearline.consumer import scaling

        fixed = NearlineConfig(folder=str(tmp_path), context_path="c", min_consumers=2, max_consumers=2)
        assert scaling(fixed) == {"num_replicas": 2}
        config = NearlineConfig(folder=str(tmp_path), context_path="c", max_consumers=3, jobs_per_consumer=2)
        settings = scaling(config)["autoscaling_config"]
        assert (settings.min_replicas, settings.max_replicas) == (1, 3)
        outbox = config.open_outbox()
        outbox.accept([Job(job_id=str(n), kind="event", member_id="a", payload={}) for n in range(5)], 1.0)
        assert OutboxDepthPolicy(**settings.policy.policy_kwargs)(None) == (3, {})
        outbox.close()

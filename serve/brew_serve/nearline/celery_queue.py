"""The nearline queue on Celery, through Ray Serve's task API: a filesystem broker, or Redis.

Celery does not retry and keeps no results or dead letters: the outbox does. Serve's own dead letters hold `str(args)`,
from which the payload cannot be recovered.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from brew_serve.nearline.config import NearlineConfig
from brew_serve.nearline.dispatcher import Message
from brew_serve.nearline.outbox import Job
from brew_serve.stores.sqlite_file import Unavailable

__all__ = ["TASK", "CeleryQueue", "celery_config", "message_of"]

TASK = "brew360.nearline"  # the handler's name

_CELERY = {
    "worker_hijack_root_logger": False,  # the replica's log is Serve's
    "worker_redirect_stdouts": False,
    "worker_prefetch_multiplier": 1,  # prefetched messages are delayed when the consumer is killed
    "worker_cancel_long_running_tasks_on_connection_loss": False,  # work is idempotent; receipts hold its outcome
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,  # unlimited: a consumer waits for its broker
    "task_publish_retry": False,  # the outbox sends again
}


def celery_config(config: NearlineConfig, *, send: bool) -> Any:
    """Return Ray Serve's TaskProcessorConfig, and create the folders of the filesystem broker.

    Args:
        config: Settings of the nearline service.
        send: True for the side that sends messages, False for the consumers.
    """
    from ray.serve.schema import CeleryAdapterConfig, TaskProcessorConfig

    options: dict[str, Any]
    if config.redis_url is not None:
        broker = backend = config.redis_url
        options = {"socket_connect_timeout": 2.0}
        if send:
            options |= {"socket_timeout": 2.0}
    else:
        folders = {name: config.queue_folder / name for name in ("inbox", "control", "results", "staging")}
        folders["staging"] /= str(os.getpid())
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        broker, backend = "filesystem://", f"file://{folders['results'].absolute()}"
        options = {
            "data_folder_in": str(folders["inbox"].absolute()),
            "data_folder_out": str(folders["staging" if send else "inbox"].absolute()),
            "control_folder": str(folders["control"].absolute()),
            "polling_interval": 0.1,  # seconds; the transport's default is 1
        }
    return TaskProcessorConfig(
        queue_name=config.queue_name,
        max_retries=0,
        adapter_config=CeleryAdapterConfig(
            broker_url=broker,
            backend_url=backend,
            broker_transport_options=options,
            app_custom_config=_CELERY,
            task_custom_config={"ignore_result": True},
        ),
    )


class CeleryQueue:
    """A `Queue` on Celery for the ingress. It connects at the first send.

    The filesystem broker does not write messages atomically, and a consumer that reads a partial message ends. Messages
    are therefore written to a staging folder and moved from there.

    Args:
        config: Settings of the nearline service.
    """

    def __init__(self, config: NearlineConfig) -> None:
        from ray.serve.task_consumer import instantiate_adapter_from_config

        settings = celery_config(config, send=True)
        self._adapter = instantiate_adapter_from_config(settings)
        options = settings.adapter_config.broker_transport_options
        self._staging = None if config.redis_url is not None else Path(options["data_folder_out"])
        self._inbox = config.queue_folder / "inbox"

    def send(self, message: Message) -> None:
        content = {"member_id": message.member_id, "jobs": [asdict(job) for job in message.jobs]}
        try:
            self._adapter.enqueue_task_sync(TASK, kwargs=content, ignore_result=True)
            if self._staging is not None:
                for file in self._staging.iterdir():
                    file.rename(self._inbox / file.name)
        except Exception as error:  # errors of kombu and its transports have no common base class
            raise Unavailable(
                f"the nearline queue did not accept a message ({type(error).__name__}: {error}). It is sent again. If "
                f"this persists, check that the broker runs."
            ) from error

    def close(self) -> None:
        """Do nothing: the connections are closed with this object."""


def message_of(member_id: str, jobs: Sequence[Mapping[str, Any]]) -> Message:
    """Rebuild the message of `send` from the arguments of the handler."""
    return Message(member_id=member_id, jobs=[Job(**job) for job in jobs])

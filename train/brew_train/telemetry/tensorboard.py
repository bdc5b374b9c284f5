"""TensorBoard sink: every number of a metrics row, by step.

Needs tensorboardX.

tensorboardX's SummaryWriter is not used: it hands events to a thread through a bounded queue, and once that thread died
(a full disk) the training would wait for it for ever. Its protocol buffers and checksum are.
"""

import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from brew_train.telemetry.goodput import Goodput

__all__ = ["TensorBoardSink"]

_LABELS = ("attempt", "stage", "step", "steps", "time", "evaluation")


class TensorBoardSink:
    """Writes scalars `train/<name>` and `evaluation/<name>`, whole records and unbuffered, so that a kill loses none.

    Args:
        folder: made if needed; `tensorboard --logdir` takes it or any folder above it.
        attempt: tells this attempt's file from others'.
    """

    def __init__(self, folder: Path, *, attempt: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names, hence the time in front
        self._file = (folder / f"events.out.tfevents.{time.time():017.6f}.{attempt}").open("xb", buffering=0)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._began = False

    def step(self, row: Mapping[str, Any], goodput: Goodput) -> None:
        """Adds the row's numbers; the first one hides what an earlier attempt wrote of this step and of later ones."""
        if not self._began:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=row["time"], step=row["step"], session_log=start))
            self._began = True
        numbers = {f"train/{name}": value for name, value in row.items() if name not in _LABELS}
        numbers |= {f"evaluation/{name}": value for name, value in (row.get("evaluation") or {}).items()}
        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in numbers.items()
            if isinstance(value, int | float)
        ]
        self._write(Event(wall_time=row["time"], step=row["step"], summary=Summary(value=values)))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        """One TFRecord: the length, its checksum, the bytes, their checksum."""
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
        self._file.write(length + checksums[0] + data + checksums[1])

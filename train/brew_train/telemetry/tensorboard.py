"""TensorBoard sink: every number of a metrics row, by step. Needs tensorboardX.

It uses the protocol buffers and the checksum of tensorboardX, but not its SummaryWriter, which sends events to a thread
through a bounded queue: if that thread fails (a full disk), training would block.
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
    """Writes scalars `train/<name>` and `evaluation/<name>`, unbuffered, so that a killed process loses no record.

    Args:
        folder: created if it does not exist; `tensorboard --logdir` accepts it or a parent folder.
        attempt: unique id of the attempt, for the file name.
    """

    def __init__(self, folder: Path, *, attempt: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names, so the time comes before the attempt
        self._file = (folder / f"events.out.tfevents.{time.time():017.6f}.{attempt}").open("xb", buffering=0)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._started = False

    def step(self, row: Mapping[str, Any], goodput: Goodput) -> None:
        """Adds the numbers of a row. The first call hides the values of earlier attempts from this step on."""
        if not self._started:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=row["time"], step=row["step"], session_log=start))
            self._started = True
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
        """Writes one TFRecord: the length, its checksum, the bytes, their checksum."""
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
        self._file.write(length + checksums[0] + data + checksums[1])

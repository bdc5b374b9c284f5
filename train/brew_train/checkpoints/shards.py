"""One worker's shards in a checkpoint, in the format of torch.distributed.checkpoint (DCP).

DCP's parts are called one by one, as its StorageWriter documents them, instead of its `save` and `load`: these exchange
every worker's plan for every checkpoint, raise a BaseException, and warn where there is one process, which a background
thread cannot silence safely (warning filters are the whole process's).
"""

from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor

__all__ = ["ShardWriter", "read_shards"]


class ShardWriter:
    """Writes the same tensors again and again.

    Who writes what, and where in which file, depends on the tensors' layout alone. So workers exchange that when the
    layout is new; after that rank 0 repeats the index. For Mixtral 8x22B on 256 workers this saves tens of seconds of
    rank 0's processor, which its training would feel, and 130 MB of messages per checkpoint.

    Args:
        rank: of this worker; rank 0 also writes the index.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self._buffers: dict[str, torch.Tensor] = {}  # this worker's parts, on the CPU
        self.forget()

    def forget(self) -> None:
        """After a failure: workers may disagree on what is known, so the next checkpoint begins afresh."""
        self._layout: list[Any] = []  # of the tensors that the following are for
        self._plan: SavePlan | None = None
        self._places: list[WriteResult] = []  # where in this worker's file each of its parts is
        self._metadata: Metadata | None = None  # rank 0's, all workers' parts, until the index is made from it
        self._index = b""  # rank 0's

    @torch.no_grad()
    def stage(self, tensors: dict[str, torch.Tensor]) -> SavePlan | None:
        """Copies this worker's parts of `tensors`; what is written later are these copies.

        The buffers are allocated once (pinned where the tensors are on a GPU). They are plain tensors: a DTensor over
        copies on the CPU would move them back to its mesh's GPUs.

        Returns:
            This worker's plan; None where the tensors are laid out as last time.
        """
        parts = {name: t.to_local() if isinstance(t, DTensor) else t for name, t in tensors.items()}
        self._buffers = {name: self._buffer(name, part) for name, part in parts.items()}
        for name, part in parts.items():
            self._buffers[name].copy_(part, non_blocking=True)
        if any(part.is_cuda for part in parts.values()):
            torch.cuda.current_stream().synchronize()

        layout = [
            (name, t.shape, t.dtype, t.placements if isinstance(t, DTensor) else None) for name, t in tensors.items()
        ]
        if layout == self._layout:
            return None
        self.forget()
        self._layout = layout
        planner = DefaultSavePlanner()
        planner.set_up_planner(dict(tensors), is_coordinator=self.rank == 0)
        return planner.create_local_plan()

    def combine(self, plans: list[SavePlan | None]) -> list[SavePlan | None]:
        """Rank 0: from every worker's plan to what each is to write; what several hold is spread over them."""
        new = [plan for plan in plans if plan is not None]
        if not new:
            return plans
        assert len(new) == len(plans), "workers disagree on the tensors' layout"
        combined, self._metadata = DefaultSavePlanner().create_global_plan(new)
        return [*self._writer(Path()).prepare_global_plan(combined)]

    def write(self, folder: Path, plan: SavePlan | None) -> tuple[list[Path], list[WriteResult] | None]:
        """Writes this worker's part.

        Args:
            folder: exists.
            plan: this worker's, from `combine`; None: as last time.

        Returns:
            files: what was written.
            places: for `finish`; None: as last time.

        Raises:
            OSError: the disk refused.
        """
        self._plan = plan or self._plan
        assert self._plan is not None
        try:
            places = self._writer(folder).write_data(self._plan, _FromBuffers(self._buffers)).value()
        except RuntimeError as error:  # torch's zip writer stumbles over its own half-written record
            raise _disk_error(error) from error
        files = sorted({folder / place.storage_data.relative_path for place in places})
        if plan is None:
            assert places == self._places, "the same layout was written to other places"
            return files, None
        self._places = places
        return files, places

    def finish(self, folder: Path, places: list[list[WriteResult] | None]) -> Path:
        """Rank 0: writes the index, from what `write` returned on every worker, and returns its path."""
        path = folder / ".metadata"
        if self._metadata is not None:
            self._writer(folder).finish(self._metadata, [part for part in places if part is not None])
            self._metadata, self._index = None, path.read_bytes()
        else:
            path.write_bytes(self._index)
        return path

    def _buffer(self, name: str, part: torch.Tensor) -> torch.Tensor:
        old = self._buffers.get(name)
        if old is not None and old.shape == part.shape and old.dtype == part.dtype:
            return old
        return torch.empty_like(part, device="cpu", pin_memory=part.is_cuda, memory_format=torch.contiguous_format)

    def _writer(self, folder: Path) -> FileSystemWriter:
        # sync_files would sync before Python's buffer is flushed; copying ahead would open a context on the first GPU
        writer = FileSystemWriter(folder, sync_files=False, per_thread_copy_ahead=0)
        writer.set_up_storage_writer(self.rank == 0, rank=self.rank)
        return writer


def read_shards(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Fills this worker's parts of `tensors` in place, whatever number of workers wrote them; no other takes part.

    Raises:
        ValueError: the folder holds other tensors.
        OSError: it cannot be read.
    """
    reader, planner = FileSystemReader(folder), DefaultLoadPlanner()
    metadata = reader.read_metadata()
    held = metadata.state_dict_metadata
    for one, other, what in ((tensors, held, "lacks"), (held, tensors, "also holds")):
        if odd := [name for name in one if name not in other]:
            raise ValueError(f"it {what} {odd[0]}" + (f" and {len(odd) - 1} more" if odd[1:] else ""))
    planner.set_up_planner(dict(tensors), metadata, is_coordinator=False)
    reader.set_up_storage_reader(metadata, is_coordinator=False)
    reader.read_data(planner.finish_plan(planner.create_local_plan()), planner).wait()


class _FromBuffers(DefaultSavePlanner):
    """Looks up what a plan names in this worker's copies."""

    def __init__(self, buffers: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self._buffers = buffers

    def lookup_object(self, index: MetadataIndex) -> torch.Tensor:
        return self._buffers[index.fqn]


def _disk_error(error: BaseException) -> BaseException:
    """The disk's own error behind `error`, or `error` itself."""
    current: BaseException | None = error
    while current is not None and not isinstance(current, OSError):
        current = current.__cause__ or current.__context__
    return current or error

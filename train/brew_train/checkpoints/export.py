"""Exports the averaged weights of a checkpoint as a Hugging Face folder for transformers and vLLM.

Only a checkpoint is read, never a model: training may continue meanwhile, and one process without a GPU can export a
model that fits none. Output files are dealt out to the workers, and memory is about one output file.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from brew_platform.errors import BrewError, DataError, StorageError
from brew_platform.files import replace_folder
from brew_platform.model_folder.tensor_map import TensorRegion, tensor_regions
from brew_train.checkpoints.export_template import ExportTemplate
from brew_train.checkpoints.manifest import Checkpoint
from brew_train.checkpoints.state import CheckpointState
from brew_train.distributed.context import DistributedContext

__all__ = ["export", "part_bytes"]

MODEL = "model.lm."  # what a checkpoint puts before the names of the causal LM's parameters
ITERATE = "z.lm."  # the same of schedule-free's z
LEAST_FILE_BYTES, MOST_FILE_BYTES = 64 * 2**20, 5 * 2**30


def export(
    checkpoint: Checkpoint,
    template: ExportTemplate,
    folder: Path,
    context: DistributedContext,
    *,
    max_file_bytes: int | None = None,
) -> None:
    """Writes the average of a checkpoint's weights as safetensors; the folder appears at once, by renaming.

    Every worker of `context` takes part; a context of one process may export while others train.

    Args:
        checkpoint: a verified one.
        template: configs of the export, and the dtype of its weights.
        folder: to be written, seen by all workers under the same path; replaces what is there.
        context: the workers that write.
        max_file_bytes: of one output file; a single tensor may exceed it. None: every worker writes a part of equal
            size, but of no more than 5 GiB and of no less than 64 MiB.

    Raises:
        DataError: weights are not finite.
        StorageError: it could not be written, or the checkpoint is gone; what was in `folder` is still there.
    """
    temporary = folder.with_name(f".{folder.name}.writing")
    try:
        context.on_first(partial(_on_disk, folder, _start, temporary))
        context.on_all(partial(_on_disk, folder, _write, checkpoint, template, temporary, context, max_file_bytes))
        context.on_first(partial(_on_disk, folder, replace_folder, temporary, folder))
    except BrewError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _start(temporary: Path) -> None:
    shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
    temporary.mkdir(parents=True)


def _write(
    checkpoint: Checkpoint,
    template: ExportTemplate,
    temporary: Path,
    context: DistributedContext,
    max_file_bytes: int | None,
) -> None:
    """Writes this worker's files; rank 0 also writes the configs and the index."""
    average_weight = CheckpointState.of(checkpoint).average_weight
    with _reading(checkpoint):
        reader = _Regions(checkpoint.folder)
    dtype = template.dtype
    if max_file_bytes is None:
        total = sum(math.prod(shape) for shape in reader.shapes.values()) * dtype.itemsize
        max_file_bytes = part_bytes(total, workers=context.size)
    files = _plan(reader.shapes, template.config.model_type, dtype, max_file_bytes)
    if context.rank == 0:
        template.write(temporary)
        _write_index(files, dtype, temporary)
    for number in range(context.rank, len(files), context.size):
        tensors: dict[str, torch.Tensor] = {}
        with _reading(checkpoint):
            for parameter, parts in files[number].items():
                tensors |= _average(reader, parameter, parts, average_weight, dtype)
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise DataError(
                    f"the trained weights {name} have values that are not finite in {dtype}, so nothing was exported "
                    f"from {checkpoint.folder}: export another checkpoint, or train again at a lower learning_rate."
                )
        save_file(tensors, temporary / _file_name(number, len(files)), metadata={"format": "pt"})


def part_bytes(total: int, *, workers: int) -> int:
    """Returns the size of output files with which every worker writes a part, within the limits of a handy file."""
    return min(MOST_FILE_BYTES, max(LEAST_FILE_BYTES, -(-total // workers)))


def _on_disk(folder: Path, make: Callable[..., None], *arguments: Any) -> None:
    try:
        make(*arguments)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"the trained weights could not be written to {folder} ({error}): free some space or repair the disk, and "
            f"start the run again; it continues from its last checkpoint."
        ) from error


@contextmanager
def _reading(checkpoint: Checkpoint) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the checkpoint {checkpoint.folder} cannot be read for the export ({error}): if training continues, a "
            f"newer one has taken its place; export that one."
        ) from error


def _plan(
    shapes: Mapping[str, tuple[int, ...]], model_type: str, dtype: torch.dtype, max_bytes: int
) -> list[dict[str, list[TensorRegion]]]:
    """What each output file holds: for each parameter in it, the tensors. Tensors of a parameter stay together."""
    files: list[dict[str, list[TensorRegion]]] = [{}]
    size = 0
    for parameter in sorted(shapes):
        for entry in tensor_regions(parameter, shapes[parameter], model_type):
            bytes_ = entry.size * dtype.itemsize
            if size and size + bytes_ > max_bytes:
                files.append({})
                size = 0
            files[-1].setdefault(parameter, []).append(entry)
            size += bytes_
    return files


def _average(
    reader: "_Regions", parameter: str, parts: list[TensorRegion], weight: float | None, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The tensors of one parameter by their names, read in one go: stored shards cut across tensors."""
    first, past = parts[0].offset[0], parts[-1].offset[0] + parts[-1].extent[0]
    region = reader.read(MODEL + parameter, first, past)
    if weight is not None and ITERATE + parameter in reader.names:  # frozen parameters have no iterate
        region.lerp_(reader.read(ITERATE + parameter, first, past), weight)
    named = {}
    for entry in parts:
        place = [slice(start, start + size) for start, size in zip(entry.offset, entry.extent, strict=True)]
        place[0] = slice(place[0].start - first, place[0].stop - first)
        named[entry.name] = region[tuple(place)].view(entry.shape).to(dtype)
    return named


def _write_index(files: list[dict[str, list[TensorRegion]]], dtype: torch.dtype, folder: Path) -> None:
    if len(files) > 1:
        held = [[entry for parts in file.values() for entry in parts] for file in files]
        index = {
            "metadata": {"total_size": sum(entry.size for part in held for entry in part) * dtype.itemsize},
            "weight_map": {
                entry.name: _file_name(number, len(files)) for number, part in enumerate(held) for entry in part
            },
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _file_name(number: int, files: int) -> str:
    return "model.safetensors" if files == 1 else f"model-{number + 1:05d}-of-{files:05d}.safetensors"


class _Regions:
    """Reads rows of the tensors of a checkpoint, for any layout of shards; reads the index once."""

    def __init__(self, folder: Path) -> None:
        self._reader = FileSystemReader(folder)
        metadata = self._reader.read_metadata()
        self._reader.set_up_storage_reader(metadata, is_coordinator=True)
        self._tensors = {
            name: tensor
            for name, tensor in metadata.state_dict_metadata.items()
            if isinstance(tensor, TensorStorageMetadata)
        }
        self.names = frozenset(self._tensors)
        self.shapes = {
            name.removeprefix(MODEL): tuple(tensor.size)
            for name, tensor in self._tensors.items()
            if name.startswith(MODEL)
        }

    def read(self, name: str, first: int, past: int) -> torch.Tensor:
        """Rows `first` to `past` (exclusive) of a tensor, float32."""
        stored = self._tensors[name]
        size = torch.Size((past - first, *stored.size[1:]))
        offset = torch.Size((first, *(0 for _ in stored.size[1:])))
        chunk = ChunkStorageMetadata(offsets=offset, sizes=size)
        plan = LoadPlan(create_read_items_for_chunk_list(name, stored, [chunk]))
        rows = torch.empty(size)
        self._reader.read_data(plan, _Into(rows)).wait()
        return rows


class _Into(DefaultLoadPlanner):
    """Puts what is read into one tensor."""

    def __init__(self, target: torch.Tensor) -> None:
        super().__init__()
        self._target = target

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        target = self._target
        for dim, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            target = target.narrow(dim, start, length)
        return target

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> Any:
        """Nothing is left to do: the tensor is a view of the target."""

"""Initial weights of a model on the meta device: random, or read from a Hugging Face folder."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.tensor import DTensor

from brew_platform.errors import DataError, UserError
from brew_train.config import ModelConfig
from brew_train.distributed.context import DistributedContext
from brew_train.model.hf_tensor_map import TensorRegion, tensor_regions
from brew_train.model.model import RankingLM

__all__ = ["materialize"]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")  # safetensors' names; anything else is a quantised model


class _Source(Protocol):
    def read(self, entry: TensorRegion, region: tuple[slice, ...]) -> torch.Tensor:
        """That region of the tensor, on the CPU, in any float type."""


def materialize(model: RankingLM, config: ModelConfig, context: DistributedContext, *, seed: int) -> None:
    """Allocates this worker's shards on `world.device`, in float32, and fills them.

    The same weights result whatever the number of workers and however the model is cut. At most one tensor of the
    checkpoint (for fused experts: of one expert) is held beside the shards.

    Args:
        model: from `build_model`, sharded or not; what it held is lost.
        config: the same that `build_model` was given. Without `init_from`, matrices are normal with standard deviation
            `initializer_range`, gains 1 and biases 0.
        seed: of the draw; each tensor has a generator of its own, seeded by this and its name.

    Raises:
        UserError: the folder's weights are not those that its config.json describes, or are no safetensors.
        DataError: a file is damaged.
    """
    lm = model.lm
    model.to_empty(device=context.device)
    lm.tie_weights()  # without FSDP2, tied parameters were given memory of their own
    _compute_buffers(lm)
    with ExitStack() as files, torch.no_grad():
        source: _Source = _Drawn(seed, lm.config.initializer_range)
        if config.init_from is not None:
            source = _Folder(Path(config.init_from), files)
        for name, parameter in lm.named_parameters():
            _fill(parameter, tensor_regions(name, parameter.shape, lm.config.model_type), source)


def _compute_buffers(lm: nn.Module) -> None:
    """Buffers are no part of a checkpoint (rotary frequencies): each module makes its own from the config."""
    for module in lm.modules():
        for name, buffer in module.named_buffers(recurse=False):
            buffer.copy_(getattr(type(module)(module.config), name))


def _fill(parameter: torch.Tensor, parts: Sequence[TensorRegion], source: _Source) -> None:
    """Copies what this worker holds of `parameter` from the tensors that it meets."""
    start, local = (0,) * parameter.ndim, parameter
    if isinstance(parameter, DTensor):
        (chunk,) = parameter.__create_chunk_list__()  # type: ignore[no-untyped-call]  # a shard's offsets and sizes
        start, local = tuple(chunk.offsets), parameter.to_local()
    for entry in parts:
        slices, place = [], []
        for shard_start, shard_size, offset, extent in zip(start, local.shape, entry.offset, entry.extent, strict=True):
            begin, end = max(shard_start, offset), min(shard_start + shard_size, offset + extent)
            slices.append(slice(begin - offset, end - offset))
            place.append(slice(begin - shard_start, end - shard_start))
        if all(part.start < part.stop for part in place):
            region = tuple(slices[len(slices) - len(entry.shape) :])
            local[tuple(place)].copy_(source.read(entry, region).view(local[tuple(place)].shape))


class _Drawn:
    def __init__(self, seed: int, deviation: float) -> None:
        self._seed, self._deviation = seed, deviation

    def read(self, entry: TensorRegion, region: tuple[slice, ...]) -> torch.Tensor:
        if len(entry.shape) == 1:
            return torch.full(entry.shape, 0.0 if entry.name.endswith("bias") else 1.0)[region]
        digest = hashlib.sha256(f"{self._seed}/{entry.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        return torch.empty(entry.shape).normal_(std=self._deviation, generator=generator)[region].contiguous()


class _Folder:
    """Regions of the tensors in a folder's safetensors files, which are mapped into memory, not read."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        self._folder, self._files = folder, files
        self._open: dict[str, Any] = {}
        self._index = self._find()

    def _find(self) -> dict[str, str]:
        """File of each tensor."""
        if (self._folder / INDEX).is_file():
            try:
                index: dict[str, str] = json.loads((self._folder / INDEX).read_text())["weight_map"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{self._folder / INDEX} is damaged ({error!r}): copy the model again.") from error
            return index
        if not (self._folder / SINGLE).is_file():
            raise UserError(
                f"{self._folder} has neither {SINGLE} nor {INDEX}: load the model with transformers and write it with "
                f"save_pretrained, which makes safetensors."
            )
        return dict.fromkeys(self._file(SINGLE).keys(), SINGLE)

    def _file(self, name: str) -> Any:
        if name not in self._open:
            path = self._folder / name
            try:
                file: AbstractContextManager[Any] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise DataError(f"{path} cannot be read ({error}): copy the model again.") from error
            self._open[name] = self._files.enter_context(file)
        return self._open[name]

    def read(self, entry: TensorRegion, region: tuple[slice, ...]) -> torch.Tensor:
        if entry.name not in self._index:
            raise UserError(
                f"{self._folder} has no tensor {entry.name}, which its config.json asks for: the two belong to "
                f"different models; copy the model again, or start from another one."
            )
        path = self._folder / self._index[entry.name]
        try:
            tensor = self._file(path.name).get_slice(entry.name)
            shape, kind = tuple(tensor.get_shape()), tensor.get_dtype()
            if shape == entry.shape and kind in FLOATS:
                return tensor[region]
        except SafetensorError as error:
            raise DataError(
                f"the tensor {entry.name} cannot be read from {path} ({error}): copy the model again."
            ) from error
        if shape != entry.shape:
            raise UserError(
                f"the tensor {entry.name} in {path} has the shape {list(shape)}, but config.json asks for "
                f"{list(entry.shape)}: the two belong to different models; copy the model again."
            )
        raise UserError(
            f"the tensor {entry.name} in {path} has the type {kind}, so the model is quantised: start from its "
            f"unquantised weights."
        )

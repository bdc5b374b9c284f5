"""Initial weights of a model on the meta device: random, or read from a Hugging Face folder."""

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PretrainedConfig

from brew_platform.errors import DataError
from brew_platform.model_folder.tensor_map import TensorRegion, tensor_regions
from brew_platform.model_folder.weight_files import read_weight_headers
from brew_train.config import ModelConfig
from brew_train.distributed.context import DistributedContext
from brew_train.model.model import RankingLM
from brew_train.model.vocabulary import is_vocabulary_matrix, vocabulary_rows

__all__ = ["materialize"]


class _Source(Protocol):
    def read(self, entry: TensorRegion, region: tuple[slice, ...]) -> torch.Tensor:
        """Returns a region of the tensor `entry`, on the CPU, in any float dtype."""


def materialize(model: RankingLM, config: ModelConfig, context: DistributedContext, *, seed: int) -> None:
    """Allocates this worker's shards on `context.device`, in float32, and fills them.

    The weights do not depend on the number of workers or on the sharding. Besides the shards, at most one tensor of the
    Hugging Face folder (one expert's, if experts are fused) is in memory.

    Args:
        model: from `build_model`, sharded or not; its current weights are lost.
        config: the argument of `build_model`; `require_base_model` has checked the folder `init_from`. Without it,
            matrices are drawn from a normal distribution with standard deviation `initializer_range`, gains are 1 and
            biases 0. With `similar_attention`, each key head is the first of the query heads that share it.
        context: the workers; every worker calls this function.
        seed: seed of the random weights, and of the rows of tokens that the base model lacks; each tensor has its own
            generator, seeded by this number and its name.

    Raises:
        DataError: a file of the folder is damaged, or holds values that are not finite.
    """
    lm = model.lm
    model.to_empty(device=context.device)
    lm.tie_weights()  # without FSDP2, to_empty allocates tied parameters separately
    _compute_buffers(lm)
    with ExitStack() as files, torch.no_grad():
        source: _Source = _Drawn(seed, lm.config, similar_attention=config.similar_attention)
        if config.init_from is not None:
            source = _Folder(Path(config.init_from), files, control_ids=model.control_ids, seed=seed)
        for name, parameter in lm.named_parameters():
            _fill(parameter, tensor_regions(name, parameter.shape, lm.config.model_type), source)


def _compute_buffers(lm: nn.Module) -> None:
    """Fills the buffers, which a checkpoint does not contain: rotary frequencies, and Gemma's scale of embeddings."""
    for module in lm.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name == "embed_scale":
                buffer.fill_(float(module.scalar_embed_scale))  # type: ignore[arg-type]
            else:
                buffer.copy_(getattr(type(module)(module.config), name))


def _fill(parameter: torch.Tensor, parts: Sequence[TensorRegion], source: _Source) -> None:
    """Fills this worker's shard of `parameter` from the tensors that overlap it."""
    start, local = (0,) * parameter.ndim, parameter
    if isinstance(parameter, DTensor):
        (chunk,) = parameter.__create_chunk_list__()  # type: ignore[no-untyped-call]  # offsets and sizes of the shard
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
    """Random weights."""

    def __init__(self, seed: int, config: PretrainedConfig, *, similar_attention: bool) -> None:
        self._seed, self._config, self._similar_attention = seed, config, similar_attention

    def read(self, entry: TensorRegion, region: tuple[slice, ...]) -> torch.Tensor:
        if len(entry.shape) == 1:
            return torch.full(entry.shape, 0.0 if entry.name.endswith("bias") else 1.0)[region]
        if self._similar_attention and entry.name.endswith(".k_proj.weight"):
            heads, key_heads = self._config.num_attention_heads, self._config.num_key_value_heads
            keys, hidden = entry.shape
            shape = (heads * keys // key_heads, hidden)
            queries = self._draw(entry.name.replace(".k_proj.", ".q_proj."), shape)
            first = queries.view(key_heads, heads // key_heads, keys // key_heads, hidden)[:, 0]
            return first.reshape(keys, hidden)[region].contiguous()
        return self._draw(entry.name, entry.shape)[region].contiguous()

    def _draw(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        digest = hashlib.sha256(f"{self._seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        return torch.empty(shape).normal_(std=self._config.initializer_range, generator=generator)


class _Folder:
    """Weights in the memory-mapped safetensors files of a Hugging Face folder that `require_base_model` has checked."""

    def __init__(self, folder: Path, files: ExitStack, *, control_ids: Sequence[int], seed: int) -> None:
        self._files, self._control_ids, self._seed = files, control_ids, seed
        self._open: dict[Path, Any] = {}
        self._stored = read_weight_headers(folder)

    def read(self, entry: TensorRegion, region: tuple[slice, ...]) -> torch.Tensor:
        if not is_vocabulary_matrix(entry.name):
            return self._read(entry, region)
        rows = vocabulary_rows(
            entry.name,
            lambda some: self._read(entry, (some, slice(None))),
            region[0],
            base=self._stored[entry.name].shape[0],
            padded=entry.shape[0],
            control_ids=self._control_ids,
            seed=self._seed,
        )
        return rows[:, *region[1:]]

    def _read(self, entry: TensorRegion, region: tuple[slice, ...]) -> torch.Tensor:
        path = self._stored[entry.name].file
        try:
            if path not in self._open:
                file: AbstractContextManager[Any] = safe_open(path, framework="pt")
                self._open[path] = self._files.enter_context(file)
            values: torch.Tensor = self._open[path].get_slice(entry.name)[region]
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"the tensor {entry.name} cannot be read from {path} ({error}): copy the model again."
            ) from error
        if not values.isfinite().all():
            raise DataError(
                f"the tensor {entry.name} in {path} has values that are not finite, so every loss would be NaN: copy "
                f"the model again, or start from another one."
            )
        return values

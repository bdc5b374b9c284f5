"""Headers of the safetensors files of a model folder, read and checked without reading the weights.

A safetensors file is an unsigned 64-bit little-endian length, a JSON header of that length, and the data. The header
names for each tensor its dtype, its shape, and where its bytes begin and end in the data
(https://github.com/huggingface/safetensors#format).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brew_platform.errors import DataError, UserError

__all__ = ["INDEX_FILE", "SINGLE_FILE", "StoredTensor", "read_model_config", "read_weight_headers"]

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
# Bytes per element of safetensors' dtypes that are whole bytes. Weights of other types than floats are quantized.
FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
DTYPE_BYTES = {**FLOAT_BYTES, **dict.fromkeys(("I64", "U64"), 8), **dict.fromkeys(("I32", "U32"), 4)}
DTYPE_BYTES |= {**dict.fromkeys(("I16", "U16"), 2), **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1)}
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
MOST_HEADER_BYTES = 100_000_000  # the limit of safetensors' own reader


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor as the header of its file describes it."""

    file: Path
    dtype: str  # safetensors' name, such as BF16
    shape: tuple[int, ...]

    @property
    def is_quantized(self) -> bool:
        """Whether it is not a tensor of floating-point numbers of 16 bits or more."""
        return self.dtype not in FLOAT_BYTES


FROM_TRANSFORMERS = "give a folder that transformers' save_pretrained wrote, or null to start from scratch"


def read_model_config(folder: Path, *, remedy: str = FROM_TRANSFORMERS) -> dict[str, Any]:
    """Returns the content of config.json.

    Args:
        folder: the folder of the model.
        remedy: what to do if it has no readable config.json; ends the message of the error.

    Raises:
        UserError: there is no such folder, it is a GGUF, or it has no readable config.json.
    """
    if folder.suffix == ".gguf" or (folder.is_dir() and any(folder.glob("*.gguf")) and not _has_weights(folder)):
        raise UserError(
            f"{folder} is a GGUF, which holds quantized weights for llama.cpp: load it with transformers' "
            f"AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32), clear its "
            f"hf_quantizer, is_quantized and config.quantization_config, and use save_pretrained; or take the "
            f"original model."
        )
    if folder.is_file():
        raise UserError(
            f"{folder} is a file, but a model is a folder with config.json and safetensors: give the folder."
        )
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise UserError(
                f"{folder} is an adapter (adapter_config.json) without its base model: merge the two with peft's "
                f"merge_and_unload and write the result with save_pretrained."
            )
        raise UserError(f"{folder} has no config.json: {remedy}.")
    try:
        model = json.loads(path.read_text(), parse_constant=_refuse_constant)
        if not isinstance(model, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"the config.json in {folder} cannot be read ({str(error).splitlines()[0]}): copy the model again, or "
            f"{remedy}."
        ) from error
    return model


def _refuse_constant(text: str) -> float:
    raise ValueError(f"it has {text}, which is not a finite number")


def read_weight_headers(folder: Path) -> dict[str, StoredTensor]:
    """Returns the tensors of a model folder by name, from the headers of its safetensors files.

    Raises:
        UserError: the folder has no safetensors.
        DataError: a file is missing, cut short or damaged.
    """
    index = _read_index(folder)
    if index is None:
        return _read_header(folder / SINGLE_FILE)
    tensors: dict[str, StoredTensor] = {}
    for name in sorted(set(index.values())):
        path = folder / name
        if not path.is_file():
            raise DataError(
                f"{folder} has no file {name}, which its {INDEX_FILE} names: the copy is incomplete; copy the model "
                f"again."
            )
        tensors |= _read_header(path)
    for tensor, file in index.items():
        if tensor not in tensors or tensors[tensor].file.name != file:
            raise DataError(
                f"{folder / file} has no tensor {tensor}, but {INDEX_FILE} says so: the files belong to different "
                f"models; copy the model again."
            )
    return tensors


def _read_index(folder: Path) -> Mapping[str, str] | None:
    """File of each tensor; None where all weights are in one file."""
    path = folder / INDEX_FILE
    if path.is_file():
        try:
            index = json.loads(path.read_text())["weight_map"]
            if not index or not all(isinstance(name, str) and Path(name).name == name for name in index.values()):
                raise ValueError("its weight_map is empty, or names no files of this folder")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({error!r}): copy the model again.") from error
        found: Mapping[str, str] = index
        return found
    if (folder / SINGLE_FILE).is_file():
        return None
    if pickled := sorted(path.name for pattern in PICKLED for path in folder.glob(pattern)):
        raise UserError(
            f"{folder} holds pickled weights only ({pickled[0]}), which are never read, because unpickling runs code: "
            f"load the model with transformers where you trust it, and write it with save_pretrained, which makes "
            f"safetensors."
        )
    raise UserError(
        f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}: load the model with transformers and write it with "
        f"save_pretrained, which makes safetensors."
    )


def _has_weights(folder: Path) -> bool:
    return (folder / SINGLE_FILE).is_file() or (folder / INDEX_FILE).is_file()


def _read_header(path: Path) -> dict[str, StoredTensor]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= MOST_HEADER_BYTES:
                raise ValueError(f"its header has {length} bytes")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors: dict[str, StoredTensor] = {}
        end = 0
        for name, entry in header.items():
            shape, (start, stop) = tuple(entry["shape"]), entry["data_offsets"]
            itemsize = DTYPE_BYTES.get(entry["dtype"])
            if itemsize is not None and stop - start != math.prod(shape) * itemsize:
                raise ValueError(f"{name} has {stop - start} bytes, not those of its shape {list(shape)}")
            end = max(end, stop)
            tensors[name] = StoredTensor(file=path, dtype=entry["dtype"], shape=shape)
        size = path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({error}): copy the model again.") from error
    if size != 8 + length + end:
        raise DataError(
            f"{path} cannot be read: it has {size:,} bytes, but its header describes {8 + length + end:,}, so it was "
            f"cut short or damaged; copy the model again."
        )
    return tensors

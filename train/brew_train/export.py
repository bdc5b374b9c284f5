"""The trained model as a Hugging Face folder that transformers and vLLM load.

Owns: gathering the averaged weights and writing config.json and model.safetensors. Does not own: tokenizer files (the
caller adds them) or versions (brew_platform's registry).
"""

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from brew_platform.errors import StorageError
from brew_train.model import RankingLM
from brew_train.world import World

__all__ = ["export"]


def export(model: RankingLM, folder: Path, world: World) -> None:
    """Writes the weights that `model` holds now as float32 safetensors; call it after `optimizer.use_average()`.

    Every worker takes part, one parameter at a time; rank 0 keeps and writes them. The folder appears at once,
    by renaming, and replaces what was there.

    Args:
        model: sharded or whole.
        folder: to be written; its parent must be seen by rank 0.
        world: the workers.

    Raises:
        StorageError: it could not be written; what was there before may be gone.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in model.lm.named_parameters():
        tensor = parameter.detach()
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if world.rank == 0:
            weights[name] = full.to("cpu", torch.float32)
    world.on_first(lambda: _write(model, weights, folder))


def _write(model: RankingLM, weights: dict[str, torch.Tensor], folder: Path) -> None:
    config = type(model.lm.config).from_dict({**model.lm.config.to_dict(), "dtype": "float32"})
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    temporary = folder.with_name(f".{folder.name}.writing")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        # save_pretrained turns fused experts back into one matrix per expert, the names that vLLM reads
        transformers_logging.disable_progress_bar()
        skeleton.save_pretrained(temporary, state_dict=weights)
        transformers_logging.enable_progress_bar()
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StorageError(
            f"the trained weights could not be written to {folder} ({error}): free some space or repair the disk, and "
            f"start the run again; it continues from its last checkpoint."
        ) from error

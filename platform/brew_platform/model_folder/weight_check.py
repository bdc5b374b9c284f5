"""Checks that the weight files of a model folder have the tensors that its config.json requires.

Reads config.json and the headers of the weight files, so it takes about a second for any size of model.
"""

from pathlib import Path

from brew_platform.errors import UserError
from brew_platform.model_folder.tensor_map import tensor_regions
from brew_platform.model_folder.weight_files import read_weight_headers

__all__ = ["require_weights"]


def require_weights(folder: Path) -> None:
    """Checks the names, shapes and types of all tensors of an unquantized model of one of `families.FAMILIES`.

    Imports PyTorch and transformers.

    Raises:
        UserError: config.json cannot be read; or tensors are missing, unexpected, of another shape, quantized or
            pickled.
        DataError: a weight file is missing, cut short or damaged.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    stored = read_weight_headers(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            lm = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the config.json in {folder} describes no model ({str(error).splitlines()[0]}): copy the model again."
        ) from error
    expected = {
        region.name: region.shape
        for name, parameter in lm.named_parameters()
        for region in tensor_regions(name, parameter.shape, config.model_type)
    }
    for name, shape in expected.items():
        if name not in stored:
            raise UserError(
                f"{folder} has no tensor {name}, which its config.json requires: the two belong to different models; "
                f"copy the model again, or take another model."
            )
        if stored[name].shape != shape:
            raise UserError(
                f"the tensor {name} in {stored[name].file} has the shape {list(stored[name].shape)}, but config.json "
                f"requires {list(shape)}: the two belong to different models; copy the model again."
            )
        if stored[name].is_quantized:
            raise UserError(
                f"the tensor {name} in {stored[name].file} has the type {stored[name].dtype}, so the model is "
                f"quantized: take its unquantized weights."
            )
    known = {*expected, *(lm.all_tied_weights_keys or ())}
    unexpected = [name for name in stored if name not in known and not name.endswith(".rotary_emb.inv_freq")]
    if unexpected:
        raise UserError(
            f"{folder} has {len(unexpected)} tensors that its config.json does not describe, such as {unexpected[0]}: "
            f"the two belong to different models; copy the model again, or take another model."
        )

"""The Hugging Face folder that a model starts from: its config, and the check of its weight files.

Reads config.json and the headers of the weight files, so it takes about a second for any size of model.
"""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from brew_platform.errors import UserError
from brew_platform.model_folder.families import check_architecture, require_unquantized
from brew_platform.model_folder.weight_files import read_model_config, read_weight_headers
from brew_train.config import ModelShape
from brew_train.model.hf_tensor_map import tensor_regions
from brew_train.model.vocabulary import is_vocabulary_matrix, plan_vocabulary

__all__ = ["read_base_config", "require_base_model"]


def read_base_config(folder: Path, shape: ModelShape, *, vocabulary_multiple: int = 1) -> PretrainedConfig:
    """Returns the config of the model in a folder, with a vocabulary that has a row for each token of the data.

    Args:
        folder: that `init_from` names.
        shape: sizes that the data determine.
        vocabulary_multiple: if the vocabulary grows, its size is a multiple of this.

    Raises:
        UserError: the folder holds no model that can be trained here, or its vocabulary or context is smaller than
            the data need.
    """
    model = read_model_config(folder)
    check_architecture(model, folder)
    require_unquantized(model, folder)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the config.json in {folder} cannot be read ({str(error).splitlines()[0]}): copy the model again, or "
            f"start from another model."
        ) from error
    config.vocab_size = plan_vocabulary(
        base=config.vocab_size, rows=shape.vocabulary_size, multiple=vocabulary_multiple, model=str(folder)
    ).padded
    if config.max_position_embeddings < shape.context_length:
        raise UserError(
            f"the model in {folder} reads at most {config.max_position_embeddings} tokens, but the bins hold up to "
            f"{shape.context_length}: build the data with a shorter context length."
        )
    return config


def require_base_model(folder: Path, shape: ModelShape) -> None:
    """Checks that a folder holds a model that can be trained here, with all of its weights.

    Raises:
        UserError: as `read_base_config`; or tensors are missing, unexpected, of another shape, quantized or pickled.
        DataError: a weight file is missing, cut short or damaged.
    """
    config = read_base_config(folder, shape)
    stored = read_weight_headers(folder)
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config)
    expected = {
        region.name: region.shape
        for name, parameter in lm.named_parameters()
        for region in tensor_regions(name, parameter.shape, config.model_type)
    }
    stored_vocabulary = AutoConfig.from_pretrained(folder, local_files_only=True).vocab_size  # before it grows
    for name, shape_ in expected.items():
        if is_vocabulary_matrix(name):
            shape_ = (stored_vocabulary, *shape_[1:])
        if name not in stored:
            raise UserError(
                f"{folder} has no tensor {name}, which its config.json requires: the two belong to different models; "
                f"copy the model again, or start from another model."
            )
        if stored[name].shape != shape_:
            raise UserError(
                f"the tensor {name} in {stored[name].file} has the shape {list(stored[name].shape)}, but config.json "
                f"requires {list(shape_)}: the two belong to different models; copy the model again."
            )
        if stored[name].is_quantized:
            raise UserError(
                f"the tensor {name} in {stored[name].file} has the type {stored[name].dtype}, so the model is "
                f"quantized: start from its unquantized weights."
            )
    known = {*expected, *(lm.all_tied_weights_keys or ())}
    unexpected = [name for name in stored if name not in known and not name.endswith(".rotary_emb.inv_freq")]
    if unexpected:
        raise UserError(
            f"{folder} has {len(unexpected)} tensors that its config.json does not describe, such as {unexpected[0]}: "
            f"the two belong to different models; copy the model again, or start from another model."
        )

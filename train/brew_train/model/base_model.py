"""The Hugging Face folder that a model starts from: its config, and the check of its weight files.

Reads config.json and the headers of the weight files, so it takes about a second for any size of model.
"""

from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from brew_platform.errors import UserError
from brew_platform.model_folder.families import check_architecture, require_unquantized
from brew_platform.model_folder.weight_check import require_weights
from brew_platform.model_folder.weight_files import read_model_config
from brew_train.config import ModelShape
from brew_train.model.vocabulary import plan_vocabulary

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
        UserError, DataError: as `read_base_config` and `require_weights`.
    """
    read_base_config(folder, shape)
    require_weights(folder)

"""The check of a model folder that all engines make before they load it."""

from pathlib import Path
from typing import Any

from brew_platform.model_folder.families import FAMILIES, check_architecture
from brew_platform.model_folder.weight_check import require_weights
from brew_platform.model_folder.weight_files import read_model_config, read_weight_headers

__all__ = ["require_model"]

_REMEDY = "give a folder that transformers' save_pretrained wrote"


def require_model(folder: Path) -> dict[str, Any]:
    """Check architecture and weight files, without reading the weights, and return the content of config.json.

    Families that cannot be trained here have nothing to agree with, and quantized models have other tensors. Of both,
    only the headers of the weight files are checked.

    Raises:
        UserError: The folder has no model, or its files do not match each other or cannot be used.
        DataError: A weight file is missing, cut short or damaged.
    """
    model = read_model_config(folder, remedy=_REMEDY)
    if model.get("model_type") not in FAMILIES:
        read_weight_headers(folder)
        return model
    check_architecture(model, folder)
    if model.get("quantization_config"):
        read_weight_headers(folder)
    else:
        require_weights(folder)
    return model

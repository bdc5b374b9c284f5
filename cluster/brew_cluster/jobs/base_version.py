"""Makes a version folder of a base model: its weights with the prompts of the data, before any training."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from brew_data.prompts.bundle import PROMPT_FILE, PromptBundle
from brew_platform.files import atomic_file
from brew_platform.model_folder.weight_files import INDEX_FILE, read_weight_headers
from brew_train.config import ModelConfig, ModelShape, TrainConfig
from brew_train.model.base_model import read_base_config, require_base_model
from brew_train.model.vocabulary import is_vocabulary_matrix, vocabulary_rows

__all__ = ["make_base_version"]


def make_base_version(model: Path, bundle: PromptBundle, folder: Path) -> Path:
    """Link the files of a base model beside the data's prompts.

    If the tokenizer of the data has control tokens that the model lacks, the vocabulary grows as when training starts
    from this model with the default seed, so that zero-shot figures are those of the model before the first step.

    Args:
        model: Folder of the base model; it is not changed.
        bundle: Prompts of the data.
        folder: Version folder to make; a complete one is used again.

    Returns:
        `folder`.

    Raises:
        UserError: The model cannot be trained here, or its tokenizer or context does not fit the data.
        DataError: A file of the model is damaged.
    """
    shape = ModelShape(vocabulary_size=bundle.tokenizer.vocabulary_size, context_length=bundle.format.context_length)
    require_base_model(model, shape)
    bundle.require_model(model)
    if (folder / PROMPT_FILE).is_file() and all(path.exists() for path in folder.iterdir()):  # PROMPT_FILE comes last
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_base_config(model, shape, vocabulary_multiple=ModelConfig().vocabulary_multiple).vocab_size
    config = json.loads((model / "config.json").read_text())
    if rows == config["vocab_size"]:
        _link(model, folder, "config.json")
    else:
        with atomic_file(folder / "config.json") as temporary:
            temporary.write_text(json.dumps({**config, "vocab_size": rows}, indent=2))
    stored = read_weight_headers(model)
    matrices = {tensor.file for name, tensor in stored.items() if is_vocabulary_matrix(name)}
    for file in sorted({tensor.file for tensor in stored.values()}):
        if file not in matrices or not _grow(file, folder / file.name, rows, bundle.tokenizer.role_ids):
            _link(model, folder, file.name)
    for name in (INDEX_FILE, "generation_config.json"):
        if (model / name).is_file():
            _link(model, folder, name)
    bundle.save(folder)
    return folder


def _link(model: Path, folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to((model / name).resolve())


def _grow(file: Path, target: Path, rows: int, control_ids: Sequence[int]) -> bool:
    """Copy a weight file if its embeddings or its output head get other rows; return whether they do."""
    changed: dict[str, torch.Tensor] = {}
    with safe_open(file, framework="pt") as source:
        for name in filter(is_vocabulary_matrix, source.keys()):
            stored = source.get_tensor(name)
            grown = vocabulary_rows(
                name,
                stored.__getitem__,
                slice(0, rows),
                base=len(stored),
                padded=rows,
                control_ids=control_ids,
                seed=TrainConfig().seed,
            ).to(stored.dtype)
            if not torch.equal(grown, stored):
                changed[name] = grown
        if not changed:
            return False
        others = {name: source.get_tensor(name) for name in source.keys() if name not in changed}  # noqa: SIM118
        metadata = source.metadata()
    with atomic_file(target) as temporary:
        save_file({**others, **changed}, temporary, metadata=metadata)
    return True

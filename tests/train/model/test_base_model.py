"""A folder that cannot be trained is refused before any time is spent, by what is wrong with it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from brew_platform.errors import DataError, UserError
from brew_train.config import ModelConfig, ModelShape, TrainConfig
from brew_train.distributed.context import DistributedContext
from brew_train.model.base_model import require_base_model
from brew_train.run_context import RunContext
from brew_train.validate import require

from ...tiny_families import TINY, VOCABULARY, make_tiny, write_tiny

SHAPE = ModelShape(vocabulary_size=VOCABULARY, context_length=64)
NORM = "model.norm.weight"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def change_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return damage


def overwrite(start: int, data: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / WEIGHTS
        content = path.read_bytes()
        path.write_bytes(content[:start] + data + content[start + len(data) :])

    return damage


def cut_short(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def index_of(weight_map: Any) -> Callable[[Path], None]:
    return lambda folder: (folder / INDEX).write_text(json.dumps({"weight_map": weight_map})) and None


@pytest.mark.parametrize("model_type", TINY)
def test_a_folder_that_transformers_wrote_is_accepted(model_type: str, tmp_path: Path) -> None:
    make_tiny(model_type).save_pretrained(tmp_path, max_shard_size="20KB")
    require_base_model(tmp_path, SHAPE)
    half = make_tiny(model_type).bfloat16()
    half.save_pretrained(tmp_path / "half")
    require_base_model(tmp_path / "half", SHAPE)


def test_a_tied_head_may_be_in_the_file_too(tmp_path: Path) -> None:
    write_tiny("gemma3_text", tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / WEIGHTS)
    change_tensors(lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))(
        tmp_path
    )
    require_base_model(tmp_path, SHAPE)


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (
            change_tensors(lambda tensors: tensors.pop(NORM)),
            UserError,
            r"has no tensor model\.norm\.weight, which its config\.json requires",
        ),
        (
            change_tensors(lambda tensors: tensors.pop("lm_head.weight")),
            UserError,
            r"has no tensor lm_head\.weight",
        ),
        (
            change_tensors(lambda tensors: tensors.update({"model.vision.weight": torch.ones(2)})),
            UserError,
            r"has 1 tensors that its config\.json does not describe, such as model\.vision\.weight",
        ),
        (
            change_tensors(lambda tensors: tensors.update({NORM: torch.ones(17)})),
            UserError,
            r"model\.norm\.weight in .* has the shape \[17\], but config\.json requires \[64\]",
        ),
        (
            change_tensors(lambda tensors: tensors.update({NORM: torch.ones(64, dtype=torch.int8)})),
            UserError,
            r"model\.norm\.weight in .* has the type I8, so the model is quantized",
        ),
        (cut_short, DataError, r"model\.safetensors cannot be read: it has .* cut short .* copy the model again"),
        (overwrite(0, b"\xff" * 8), DataError, r"model\.safetensors cannot be read \(its header has \d+ bytes\)"),
        (overwrite(8, b"not JSON"), DataError, r"model\.safetensors cannot be read .*copy the model again"),
        (
            lambda folder: (folder / WEIGHTS).unlink(),
            UserError,
            r"has neither model\.safetensors nor model\.safetensors\.index\.json: .* save_pretrained",
        ),
        (
            lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"),
            UserError,
            r"holds pickled weights only \(pytorch_model\.bin\), which are never read",
        ),
        (lambda folder: (folder / INDEX).write_text("{}"), DataError, r"model\.safetensors\.index\.json is damaged"),
        (index_of({}), DataError, r"model\.safetensors\.index\.json is damaged .* weight_map is empty"),
        (index_of({NORM: "../other/model.safetensors"}), DataError, r"names no files of this folder"),
        (
            index_of({NORM: "model-00001-of-00002.safetensors"}),
            DataError,
            r"has no file model-00001-of-00002\.safetensors, which its .* names: the copy is incomplete",
        ),
        (index_of({"model.other": WEIGHTS}), DataError, r"has no tensor model\.other, but .* says so"),
    ],
)
def test_damaged_weights_are_refused(
    damage: Callable[[Path], Any], kind: type[UserError], message: str, tmp_path: Path
) -> None:
    write_tiny("mixtral", tmp_path)
    damage(tmp_path)
    with pytest.raises(kind, match=message):
        require_base_model(tmp_path, SHAPE)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"vocabulary_size": VOCABULARY + 17},
            r"has 96 token ids, but the bins were made with 113: .* \(tokenizer\.from\)",
        ),
        ({"context_length": 257}, "reads at most 256 tokens, but the bins hold up to 257"),
    ],
)
def test_a_model_smaller_than_the_data_is_refused(sizes: dict[str, int], message: str, tmp_path: Path) -> None:
    write_tiny("llama", tmp_path)
    with pytest.raises(UserError, match=message):
        require_base_model(tmp_path, replace(SHAPE, **sizes))


def test_a_run_is_refused_before_its_bins_are_read(tmp_path: Path) -> None:
    config = TrainConfig(model=ModelConfig(init_from=str(tmp_path / "none")))
    run = RunContext(
        bins={}, out=tmp_path / "run", shape=SHAPE, distributed=DistributedContext(device=torch.device("cpu"))
    )
    with pytest.raises(UserError, match=r"none has no config\.json: give a folder that .* save_pretrained wrote"):
        require(config, run)
